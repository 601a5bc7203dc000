//! barque-store-wal
