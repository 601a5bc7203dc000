//! barque-agents-scheduler
