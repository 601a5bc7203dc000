//! barque-agents-client
