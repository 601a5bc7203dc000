//! barque-agents-kubelet
