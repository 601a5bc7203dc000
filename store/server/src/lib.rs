//! barque-store-server
