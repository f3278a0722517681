//! The participant's side: requests as they come, and each step signed by its sender.
#![no_main]

use std::sync::Arc;

use bytes::Bytes;
use diai_core::{BoxFuture, memory::Sim};
use diai_fuzz::{ALICE, Served, alices_world, message, signed};
use diai_messaging::negotiation::{Agreement, Bidder, Call, Ending, NegotiationId, Negotiator, Offer, SERVICE};
use libfuzzer_sys::fuzz_target;

struct Willing;

impl Bidder for Willing {
    fn bid(&self, _: Call) -> BoxFuture<'static, Result<Offer, String>> {
        Box::pin(async { Ok(Offer::default()) })
    }

    fn awarded(&self, _: Agreement) -> BoxFuture<'static, Result<(), String>> {
        Box::pin(async { Ok(()) })
    }

    fn ended(&self, _: NegotiationId, _: Ending) {}
}

const STEPS: [(u32, &str); 3] =
    [(1, "diai/negotiate/call/1"), (2, "diai/negotiate/award/1"), (3, "diai/negotiate/cancel/1")];

fuzz_target!(|data: &[u8]| {
    let sim = Sim::new(0);
    let (world, served) = (alices_world(&sim), Arc::new(Served::default()));
    let negotiator = Negotiator::new(&world, served.clone(), ALICE.clone());
    sim.run(async {
        let _bidding = negotiator.serve(Arc::new(Willing)).expect("nobody else serves it");
        served.request(SERVICE, Bytes::copy_from_slice(data)).await;
        for (tag, domain) in STEPS {
            served.request(SERVICE, message(&[(tag, &signed(domain, data))])).await;
        }
    });
});
