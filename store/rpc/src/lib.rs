//! barque-store-rpc
