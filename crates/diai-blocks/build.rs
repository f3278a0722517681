//! Compiles the `.proto` files without an installed `protoc`.

use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=proto");
    let files = protox::compile(
        ["proto/dag.proto", "proto/ipfs_kad.proto", "proto/sealed.proto", "proto/workspace.proto"],
        ["proto"],
    )?;
    prost_build::Config::new().bytes(["."]).compile_fds(files)?;
    Ok(())
}
