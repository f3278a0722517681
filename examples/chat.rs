//! Two agents send each other texts. A text has arrived when its sender's call returns.
//!
//! ```sh
//! cargo run --release --example chat
//! ```

use std::error::Error;

use diai::{AgentId, Bytes, CallOptions, Calls, Reply};
use diai_examples::{local_agent, local_agent_knowing, log_to_stderr};
use tokio::sync::mpsc;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    log_to_stderr();
    let folder = tempfile::tempdir()?;

    let (texts, mut received) = mpsc::channel::<(AgentId, String)>(16);
    let inbox = move |request: diai::Request| {
        let texts = texts.clone();
        async move {
            let text = String::from_utf8_lossy(&request.body).into_owned();
            // When the handler returns, the sender is told so: hold the text first.
            let busy = |_| diai::Refusal::Busy { retry_after_ms: 100 };
            texts.try_send((request.from, text)).map_err(busy)?;
            Ok(Reply::Whole(Bytes::new()))
        }
    };
    let alice = local_agent(folder.path(), "alice").service("text", inbox.clone()).start().await?;
    let bob = local_agent_knowing(folder.path(), "bob", &alice).service("text", inbox).start().await?;

    // Bob knows an address of Alice, and so her agent id once they have met; Alice then knows Bob's.
    let addr = alice.status().addrs.into_iter().next().ok_or("alice listens nowhere")?;
    bob.world().network.dial(addr).await?;

    let options = CallOptions::default();
    bob.messaging().notify(alice.id(), "text", Bytes::from("Are you there?"), options).await?;
    let (from, text) = received.recv().await.ok_or("nothing arrived")?;
    println!("alice got {text:?} from {from}");
    alice.messaging().notify(from, "text", Bytes::from("Always."), options).await?;
    let (from, text) = received.recv().await.ok_or("nothing arrived")?;
    println!("bob got {text:?} from {from}");
    assert_eq!((from, text.as_str()), (alice.id(), "Always."));

    bob.shutdown().await;
    alice.shutdown().await;
    Ok(())
}
