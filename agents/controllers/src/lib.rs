//! barque-agents-controllers
