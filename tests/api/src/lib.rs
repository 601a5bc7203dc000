//! barque-tests-api
