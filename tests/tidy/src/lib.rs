//! barque-tests-tidy
