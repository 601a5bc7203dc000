//! barque-apiserver-registry
