//! A program runs on another agent's machine, in a sandbox with limits, and its signed result comes back.
//!
//! ```sh
//! cargo run --release --example run_task
//! ```

use std::error::Error;

use diai::{Bytes, TaskSpec, blocks::handle::AddOptions};
use diai_examples::{local_agent, local_agent_knowing, log_to_stderr};

/// A WASI command module that greets whoever is named on its standard input; its source lies beside it.
const HELLO: &[u8] = include_bytes!("guests/hello.wasm");

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    log_to_stderr();
    let folder = tempfile::tempdir()?;

    let worker = local_agent(folder.path(), "worker").capability("compute/wasm").serve_tasks(true).start().await?;
    let asker = local_agent_knowing(folder.path(), "asker", &worker).start().await?;

    let program = asker.blocks().add_bytes(Bytes::from_static(HELLO), AddOptions::default()).await?.cid;
    let name = asker.blocks().add_bytes(Bytes::from_static(b"Ada"), AddOptions::default()).await?.cid;
    let spec = TaskSpec::wasm(program).input("name", name).capability("compute/wasm");
    let output = asker.tasks().run_on(spec, vec![worker.id()]).result().await?;
    let said = asker.tasks().content(output.stdout()).await?;

    println!("{} ran it: {}", output.worker, String::from_utf8_lossy(&said).trim());
    println!("it used {} units of fuel in {} ms", output.usage.fuel, output.usage.wall_ms);
    assert_eq!(output.worker, worker.id());

    asker.shutdown().await;
    worker.shutdown().await;
    Ok(())
}
