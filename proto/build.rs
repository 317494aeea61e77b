//! Compiles the wire types and what the bindings of libtorch lack, and links the binaries against the libtorch that
//! `torch-sys` was built with.

use std::{
    env,
    error::Error,
    fs,
    path::{Path, PathBuf},
};

use prost::Message as _;

const FILES: [&str; 6] = [
    "activevlm/v1/label_service.proto",
    "activevlm/v1/model_service.proto",
    "activevlm/v1/pool_service.proto",
    "activevlm/v1/round_service.proto",
    "activevlm/v1/selection_service.proto",
    "activevlm/v1/training_service.proto",
];

/// What the bindings of libtorch lack.
const SOURCES: [&str; 2] = ["src/engine/cuda.cpp", "src/training/optimiser.cpp"];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    let descriptors = protox::compile(FILES, ["proto"])?;
    // Reflection shows the same descriptors, comments included.
    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out.join("activevlm.v1.bin"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure()
        // Image files are slices of the message they came in, not copies.
        .bytes(".")
        // Equal messages have equal bytes: a replay is the first answer byte for byte.
        .btree_map(".")
        .compile_fds(descriptors)?;
    for file in SOURCES {
        println!("cargo:rerun-if-changed={file}");
    }
    println!("cargo:rerun-if-env-changed=LIBTORCH_INCLUDE");
    if let Ok(lib) = env::var("DEP_TCH_LIBTORCH_LIB") {
        // Where torch-sys takes them from.
        let root = env::var("LIBTORCH_INCLUDE").map(PathBuf::from);
        let root = root.unwrap_or_else(|_| Path::new(&lib).join(".."));
        cc::Build::new()
            .cpp(true)
            .std("c++17")
            .warnings(false)
            .include(root.join("include"))
            .include(root.join("include/torch/csrc/api/include"))
            .files(SOURCES)
            .compile("active_vlm_torch");
        println!("cargo:rustc-link-arg=-Wl,-rpath,{lib}");
        println!("cargo:rustc-link-arg=-Wl,--no-as-needed");
    }
    Ok(())
}
