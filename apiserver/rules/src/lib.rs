//! barque-apiserver-rules
