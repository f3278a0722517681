//! Golden vectors: the wire does not change unnoticed.
#![allow(clippy::unwrap_used, reason = "a test may fail")]

mod common;

use std::{sync::Arc, time::Duration};

use common::{Agent, Counting};
use diai_core::{BoxFuture, Bytes, Priority, Refusal, WallTime, memory::Sim};
use diai_identity::Identity;
use diai_messaging::{
    codec,
    message::{Frame, Hello, Limits, Mode},
    negotiation::{Agreement, Bidder, Call, CallForProposals, Ending, NegotiationId, Negotiator, Offer},
    sealed,
};

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn frames_have_these_bytes() {
    let limits = Limits {
        max_requests: 256,
        max_message_bytes: 16 << 20,
        request_window_bytes: 32 << 20,
        reply_window_bytes: 32 << 20,
        stream_window_bytes: 256 << 10,
    };
    let hello = Hello { incarnation: 0x0102_0304_0506_0708, number: 1, seen_incarnation: 9, seen_number: 2, limits };
    let request = Frame::Request {
        id: 3,
        mode: Mode::Streaming,
        priority: Priority::Low,
        deadline_ms: 30_000,
        total: 5,
        service: "echo",
        body: b"hello",
    };
    let vectors = [
        (
            Frame::Hello(hello),
            "00340000000000000000000008070605040302010100000000000000090000000000000002000000000000000001000000000001\
             000000020000000200000400",
        ),
        (request, "a112000003000000000000003075000005000000046563686f68656c6c6f"),
        (Frame::RequestData { id: 3, body: b"x" }, "02010000030000000000000078"),
        (Frame::Response { id: 3, total: 2, body: b"ok" }, "030600000300000000000000020000006f6b"),
        (Frame::Part { id: 3, total: 2, body: b"ok" }, "040600000300000000000000020000006f6b"),
        (Frame::ReplyData { id: 3, body: b"x" }, "05010000030000000000000078"),
        (Frame::End { id: 3 }, "060000000300000000000000"),
        (Frame::Ack { id: 3 }, "070000000300000000000000"),
        (
            Frame::Refusal { id: 3, refusal: Refusal::Busy { retry_after_ms: 250 } },
            "08090000030000000000000000fa00000000000000",
        ),
        (Frame::Refusal { id: 3, refusal: Refusal::UnknownService }, "08010000030000000000000001"),
        (
            Frame::Refusal { id: 3, refusal: Refusal::NotAllowed { reason: "no".into() } },
            "080300000300000000000000026e6f",
        ),
        (Frame::Refusal { id: 3, refusal: Refusal::DeadlinePassed }, "08010000030000000000000003"),
        (
            Frame::Refusal { id: 3, refusal: Refusal::BadRequest { reason: "no".into() } },
            "080300000300000000000000046e6f",
        ),
        (Frame::Refusal { id: 3, refusal: Refusal::Failed { reason: "no".into() } }, "080300000300000000000000056e6f"),
        (Frame::Cancel { id: 3 }, "090000000300000000000000"),
        (Frame::Cancelled { id: 3 }, "0a0000000300000000000000"),
        (Frame::Credit { request_bytes: 1, reply_bytes: 2 }, "0b08000000000000000000000100000002000000"),
        (Frame::StreamCredit { id: 3, bytes: 1 }, "0c040000030000000000000001000000"),
        (Frame::Ping { token: 4 }, "0d0000000400000000000000"),
        (Frame::Pong { token: 4 }, "0e0000000400000000000000"),
        (Frame::Bye, "0f0000000000000000000000"),
    ];
    for (frame, expected) in vectors {
        let mut bytes = Vec::new();
        codec::encode(&frame, &mut bytes);
        assert_eq!(hex(&bytes), expected, "{frame:?}");
        assert_eq!(codec::decode(&bytes), Ok(Some((frame, bytes.len()))));
    }
}

#[test]
fn a_sealed_payload_holds_this() {
    let now = WallTime::from_unix_ms(1_800_000_000_000);
    let identity = |number: u64| Identity::generate(&Counting::new(number << 32), now);
    let (alice, bob) = (identity(1), identity(2));
    let payload = Bytes::from("hi");
    let sealed =
        sealed::seal_to(&bob.certificate(), &alice, &Counting::new(9), now, Duration::from_secs(60), payload).unwrap();
    let inner = bob.open_sealed(b"diai/sealed/1", &sealed).unwrap();
    let signed = diai_identity::Signed::from_bytes(inner, 4096).unwrap();
    let content = hex(signed.payload());
    let (recipient, rest) = content.split_at(4 + 64);
    assert_eq!(recipient, format!("0a20{}", hex(bob.agent().as_bytes())));
    // 16 bytes of id, then expiry and payload.
    assert!(rest.starts_with("1210"));
    assert_eq!(&rest[4 + 32..], "18e0f4f4c2b13422026869");
}

struct Fixed;

impl Bidder for Fixed {
    fn bid(&self, _: Call) -> BoxFuture<'static, Result<Offer, String>> {
        let (start, run) = (Duration::from_millis(300), Duration::from_secs(2));
        let offer = Offer { price: 7, start, run, extra: Bytes::from("x"), ..Offer::default() };
        Box::pin(async { Ok(offer) })
    }

    fn awarded(&self, _: Agreement) -> BoxFuture<'static, Result<(), String>> {
        Box::pin(async { Ok(()) })
    }

    fn ended(&self, _: NegotiationId, _: Ending) {}
}

#[test]
fn the_steps_of_a_negotiation_hold_this() {
    let sim = Sim::new(1);
    let (alice, bob) = Agent::two(&sim);
    let agreement = sim.run(async move {
        let (a, b) = (alice.messaging(), bob.messaging());
        let negotiator =
            |agent: &Agent, messaging| Negotiator::new(&agent.world, Arc::new(messaging), agent.identity.clone());
        let _bidding = negotiator(&bob, b.clone()).serve(Arc::new(Fixed)).unwrap();
        alice.world.network.connect(bob.peer(), vec![]).await.unwrap();
        let proposal = CallForProposals {
            kind: "k/1".into(),
            subject: Bytes::from("ring"),
            bids_within: Duration::from_secs(1),
            valid_for: Duration::from_secs(2),
        };
        let mut negotiation = negotiator(&alice, a).call(vec![bob.identity.agent()], proposal).await.unwrap();
        negotiation.award(negotiation.bids()[0].id()).await.unwrap()
    });
    let ms = |time: WallTime| {
        let mut bytes = Vec::new();
        prost::encode_length_delimiter(usize::try_from(time.as_unix_ms()).unwrap(), &mut bytes).unwrap();
        hex(&bytes)
    };
    let (call, bid) = (agreement.call(), agreement.bid());
    let (bids_until, valid_until) = (ms(call.bids_until()), ms(call.valid_until()));
    let payload = hex(call.signed().payload());
    assert_eq!(&payload[..4], "0a10", "16 bytes of nonce");
    assert_eq!(payload[36..], format!("12036b2f311a0472696e6720{bids_until}28{valid_until}"));
    let id = agreement.id();
    let expected = format!("0a20{id}100718ac0220d00f28{valid_until}320178");
    assert_eq!(hex(bid.signed().payload()), expected);
    let expected = format!("0a20{id}1220{}18{}", bid.id(), ms(agreement.awarded()));
    assert_eq!(hex(agreement.award().payload()), expected);
    let acceptance = hex(agreement.acceptance().payload());
    assert_eq!(acceptance[..72], format!("0a20{id}1220"));
    assert_eq!(acceptance.len(), 72 + 64);
    let bytes = hex(&agreement.to_bytes());
    assert!(bytes.contains(&hex(&agreement.award().to_bytes())));
}
