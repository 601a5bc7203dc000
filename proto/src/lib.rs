//! Wire messages and services, generated from `proto/*.proto` at build time without protoc. They stop at the edge:
//! no core signature carries them.

/// The agents' object protocol (`objects.proto`).
pub mod objects {
    #![allow(clippy::all, clippy::disallowed_methods)]
    tonic::include_proto!("barque.objects.v1");
}
