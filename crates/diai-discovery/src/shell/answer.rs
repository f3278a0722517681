use std::sync::Arc;

use diai_core::{Incoming, Misbehaviour};
use futures::{StreamExt, stream::FuturesUnordered};

use crate::{exchange, machine::Limiter, shared::Shared};

/// Streams of one device that may be open at a time.
pub(crate) const MAX_STREAMS_PER_PEER: usize = 4;

/// Answers devices that ask for our record, until the World shuts down.
pub(crate) async fn run(shared: Arc<Shared>, mut incoming: Incoming) {
    let mut limiter = Limiter::new(shared.config.question_burst, shared.config.questions_per_second);
    let mut answers = FuturesUnordered::new();
    loop {
        tokio::select! {
            biased;
            Some(()) = answers.next(), if !answers.is_empty() => {}
            inbound = incoming.next(), if answers.len() < shared.config.max_serving => {
                let Some(inbound) = inbound else { break };
                if limiter.allow(inbound.peer, shared.world.clock.now()) {
                    answers.push(exchange::answer(&shared, inbound));
                } else {
                    shared.counters.refused.add();
                    shared.world.network.penalise(inbound.peer, Misbehaviour::Flooding);
                }
            }
        }
    }
    while answers.next().await.is_some() {}
}
