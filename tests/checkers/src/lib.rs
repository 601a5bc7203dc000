//! barque-tests-checkers
