//! `agreement.json`: what was agreed, for people, with the signed bytes for programs.

use diai::messaging::negotiation::Agreement;
use serde_json::{Value, json};

use crate::brief::{Brief, hex};

/// How an agreement ended.
#[derive(Debug, Clone)]
pub(crate) struct Record {
    pub(crate) agreement: Agreement,
    pub(crate) state: &'static str,
    pub(crate) reason: Option<String>,
}

pub(crate) fn terms(agreement: &Agreement) -> String {
    let offer = agreement.bid().offer();
    format!(
        "starts in {:.1} s, runs {:.1} s, {} credits",
        offer.start.as_secs_f64(),
        offer.run.as_secs_f64(),
        offer.price
    )
}

pub(crate) fn to_json(records: &[Record]) -> String {
    let agreements: Vec<_> = records.iter().map(one).collect();
    format!("{:#}\n", json!({ "agreements": agreements }))
}

fn one(record: &Record) -> Value {
    let Record { agreement, state, reason } = record;
    let (call, offer) = (agreement.call(), agreement.bid().offer());
    let brief = Brief::from_bytes(call.subject()).ok();
    let idea = brief.as_ref().and_then(|brief| brief.idea(agreement.awarded()).ok());
    json!({
        "id": agreement.id().to_string(),
        "state": state,
        "reason": reason,
        "initiator": agreement.initiator().to_string(),
        "participant": agreement.participant().to_string(),
        "kind": call.kind(),
        "idea": idea.map(|idea| idea.text),
        "finish_within_ms": brief.map(|brief| brief.finish_within().as_millis()),
        "offer": {
            "price_credits": offer.price,
            "start_ms": offer.start.as_millis(),
            "run_ms": offer.run.as_millis(),
        },
        "awarded_unix_ms": agreement.awarded().as_unix_ms(),
        "signed_hex": hex(&agreement.to_bytes()),
    })
}
