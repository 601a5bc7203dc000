//! barque-bench
