//! barque-apiserver-gateway
