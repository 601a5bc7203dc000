//! barque-apiserver-schema
