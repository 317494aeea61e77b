//! Links the binaries against the libtorch that `torch-sys` was built with.

fn main() {
    println!("cargo:rerun-if-changed=proto/build.rs");
    if let Ok(lib) = std::env::var("DEP_TCH_LIBTORCH_LIB") {
        println!("cargo:rustc-link-arg=-Wl,-rpath,{lib}");
        println!("cargo:rustc-link-arg=-Wl,--no-as-needed");
    }
}
