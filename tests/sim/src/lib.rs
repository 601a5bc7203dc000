//! barque-tests-sim
