//! Agents register what they can do; another finds them by an ancestor of it.
//!
//! ```sh
//! cargo run --release --example discover
//! ```

use std::{error::Error, time::Duration};

use diai::{FindOptions, StreamExt};
use diai_examples::{local_agent, local_agent_knowing, log_to_stderr};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    log_to_stderr();
    let folder = tempfile::tempdir()?;

    // The first agent of a network has nobody to contact; the others contact it, and find each other through it.
    let first = local_agent(folder.path(), "first").start().await?;
    let jeweller = local_agent_knowing(folder.path(), "jeweller", &first)
        .capability("modeling/3d/jewelry")
        .attribute("price", 120)
        .start()
        .await?;
    let architect =
        local_agent_knowing(folder.path(), "architect", &first).capability("modeling/3d/buildings").start().await?;
    let seeker = local_agent_knowing(folder.path(), "seeker", &first).start().await?;

    // Whoever offers a path is found by each of its ancestors too.
    let path = "modeling/3d".parse()?;
    let mut found = seeker.discovery().find(&path, FindOptions::within(Duration::from_secs(10)).enough(2));
    let mut agents = Vec::new();
    while let Some(found) = found.next().await {
        let record = found.record.record();
        let paths: Vec<_> = record.capabilities.iter().map(ToString::to_string).collect();
        println!("{} can do {}", record.agent, paths.join(", "));
        agents.push(record.agent);
    }
    assert!(agents.contains(&jeweller.id()) && agents.contains(&architect.id()), "both are found");

    for agent in [seeker, jeweller, architect, first] {
        agent.shutdown().await;
    }
    Ok(())
}
