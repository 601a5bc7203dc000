//! Wire messages and services, generated from `proto/*.proto` at build time without protoc. They stop at the edge:
//! no core signature carries them.

/// The agents' object protocol (`objects.proto`).
pub mod objects {
    #![allow(clippy::all, clippy::disallowed_methods)]
    tonic::include_proto!("barque.objects.v1");
}

/// etcd's rows and events (`mvccpb.proto`).
pub mod mvccpb {
    #![allow(clippy::all, clippy::disallowed_methods)]
    tonic::include_proto!("mvccpb");
}

/// etcd's v3 API (`etcdserverpb.proto`).
pub mod etcdserverpb {
    #![allow(clippy::all, clippy::disallowed_methods)]
    tonic::include_proto!("etcdserverpb");
}

/// gRPC's standard health protocol (`health.proto`).
pub mod health {
    #![allow(clippy::all, clippy::disallowed_methods)]
    tonic::include_proto!("grpc.health.v1");
}

/// The descriptors of all the above as an encoded `FileDescriptorSet`, for whoever reads messages by field name.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptor.bin"));
