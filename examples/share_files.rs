//! A folder is shared with one other agent: anybody may fetch and hold its blocks, only he can read it.
//!
//! ```sh
//! cargo run --release --example share_files
//! ```

#![allow(clippy::disallowed_methods, reason = "a program's own files and time, outside any agent")]

use std::{error::Error, fs, sync::Arc, time::Duration};

use diai::{Agent, blocks::handle::AddOptions, core::os::FsDisk};
use diai_examples::{local_agent, local_agent_knowing, log_to_stderr};

/// How long to look for content.
const WITHIN: Duration = Duration::from_secs(30);

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    log_to_stderr();
    let folder = tempfile::tempdir()?;
    let alice = local_agent(folder.path(), "alice").start().await?;
    let bob = local_agent_knowing(folder.path(), "bob", &alice).start().await?;
    let eve = local_agent_knowing(folder.path(), "eve", &alice).start().await?;

    fs::create_dir_all(folder.path().join("plans/details"))?;
    fs::write(folder.path().join("plans/ring.txt"), "a solitaire, size 54")?;
    fs::write(folder.path().join("plans/details/stone.txt"), "one carat, round")?;

    // Sealing needs the reader's certificate; his signed record in the DHT carries it.
    let record = alice.discovery().find_agent(bob.id(), WITHIN).await?;
    let options = AddOptions::sealed_for(vec![record.certificate().clone()]);
    let disk = Arc::new(FsDisk::open(folder.path())?);
    let added = alice.blocks().add_path(disk.clone(), "plans", options).await?;
    println!("alice shares {} ({} bytes)", added.cid, added.bytes);

    let deadline = |agent: &Agent| agent.world().clock.now() + WITHIN;
    let bytes = bob.blocks().export_sealed(added.cid, disk, "bobs-copy", deadline(&bob)).await?;
    let copy = fs::read_to_string(folder.path().join("bobs-copy/ring.txt"))?;
    println!("bob reads {bytes} bytes: {copy:?}");
    assert_eq!(copy, "a solitaire, size 54");

    let refused = eve.blocks().open_sealed(added.cid, 1 << 20, deadline(&eve)).await;
    println!("eve holds the blocks, and reads nothing: {}", refused.map(drop).expect_err("eve has no grant"));

    for agent in [bob, eve, alice] {
        agent.shutdown().await;
    }
    Ok(())
}
