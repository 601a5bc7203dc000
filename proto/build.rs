//! Compiles the protocol definitions without protoc.
use std::error::Error;
use std::path::Path;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    let out = std::env::var("OUT_DIR")?;
    let mut compiler = protox::Compiler::new(["proto"])?;
    compiler.include_imports(true);
    compiler.open_files(FILES)?;
    std::fs::write(
        Path::new(&out).join("descriptor.bin"),
        compiler.encode_file_descriptor_set(),
    )?;
    tonic_prost_build::configure()
        .bytes(".")
        .build_transport(true)
        .compile_fds(compiler.file_descriptor_set())?;
    Ok(())
}

const FILES: &[&str] = &[
    "objects.proto",
    "etcdserverpb.proto",
    "mvccpb.proto",
    "health.proto",
];
