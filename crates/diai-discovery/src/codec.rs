use std::str::FromStr;

use bytes::Bytes;
use diai_core::{
    AgentId, Multiaddr, PeerId, WallTime,
    bounded::{self, Bounds, DecodeError, Field},
};
use prost::Message;

use crate::{
    AgentRecord, AttributeValue, Attributes, CapabilityPath, Decimal,
    attribute::{MAX_ATTRIBUTE_NAME_BYTES, MAX_ATTRIBUTE_TEXT_BYTES, MAX_ATTRIBUTES, is_attribute_name},
    message::{MAX_ADDR_BYTES, MAX_ADDRS, MAX_CAPABILITIES},
};

#[allow(missing_docs, unreachable_pub, clippy::all, reason = "generated")]
mod wire {
    include!(concat!(env!("OUT_DIR"), "/diai.discovery.rs"));
}

const MESSAGE: &str = "agent record";

const DECIMAL: Bounds = Bounds::new("decimal", &[Field::scalar(1), Field::scalar(2)]);

const ATTRIBUTE: Bounds = Bounds::new(
    "attribute",
    &[
        Field::bytes(1, 1, MAX_ATTRIBUTE_NAME_BYTES),
        Field::bytes(2, 1, MAX_ATTRIBUTE_TEXT_BYTES),
        Field::scalar(3),
        Field::message(4, 1, &DECIMAL),
        Field::scalar(5),
    ],
);

const RECORD: Bounds = Bounds::new(
    MESSAGE,
    &[
        Field::bytes(1, 1, 32),
        Field::bytes(2, 1, 64),
        Field::scalar(3),
        Field::scalar(4),
        Field::scalar(5),
        Field::bytes(6, MAX_ADDRS, MAX_ADDR_BYTES),
        Field::bytes(7, MAX_CAPABILITIES, CapabilityPath::MAX_BYTES),
        Field::message(8, MAX_ATTRIBUTES, &ATTRIBUTE),
    ],
);

/// The bytes of `record`, as they are signed.
pub(crate) fn encode(record: &AgentRecord) -> Bytes {
    wire::AgentRecord {
        agent: Bytes::copy_from_slice(record.agent.as_bytes()),
        peer: record.peer.to_bytes().into(),
        seq: record.seq,
        not_before_ms: record.not_before.as_unix_ms(),
        expires_ms: record.expires.as_unix_ms(),
        addrs: record.addrs.iter().map(|addr| Bytes::from(addr.to_vec())).collect(),
        ..describe(&record.capabilities, &record.attributes)
    }
    .encode_to_vec()
    .into()
}

/// How many bytes capabilities and attributes take in a record.
pub(crate) fn description_bytes(capabilities: &[CapabilityPath], attributes: &Attributes) -> usize {
    describe(capabilities, attributes).encoded_len()
}

/// How many bytes `addr` takes in a record.
pub(crate) fn addr_bytes(addr: &Multiaddr) -> usize {
    wire::AgentRecord { addrs: vec![addr.to_vec().into()], ..Default::default() }.encoded_len()
}

fn describe(capabilities: &[CapabilityPath], attributes: &Attributes) -> wire::AgentRecord {
    wire::AgentRecord {
        capabilities: capabilities.iter().map(ToString::to_string).collect(),
        attributes: attributes.iter().map(|(name, value)| attribute(name, value)).collect(),
        ..Default::default()
    }
}

fn attribute(name: &str, value: &AttributeValue) -> wire::Attribute {
    use wire::attribute::Value;
    let value = match value {
        AttributeValue::Text(text) => Value::Text(text.clone()),
        AttributeValue::Integer(number) => Value::Integer(*number),
        AttributeValue::Decimal(number) => {
            Value::Decimal(wire::Decimal { mantissa: number.mantissa(), scale: u32::from(number.scale()) })
        }
        AttributeValue::Flag(flag) => Value::Flag(*flag),
    };
    wire::Attribute { name: name.to_owned(), value: Some(value) }
}

/// The record in `bytes`. Addresses and attribute values of a kind unknown here are left out, so that a newer device is
/// understood; all else must be whole and in order.
pub(crate) fn decode(bytes: Bytes) -> Result<AgentRecord, DecodeError> {
    let record: wire::AgentRecord = bounded::decode(bytes, &RECORD)?;
    let peer = PeerId::from_bytes(&record.peer).map_err(|_| value("peer"))?;
    let capabilities = record
        .capabilities
        .iter()
        .map(|path| CapabilityPath::from_str(path).map_err(|_| value("capabilities")))
        .collect::<Result<Vec<_>, _>>()?;
    if !capabilities.is_sorted_by(|a, b| a < b) {
        return Err(value("capabilities"));
    }
    if !record.attributes.is_sorted_by(|a, b| a.name < b.name) {
        return Err(value("attributes"));
    }
    let mut attributes = Attributes::new();
    for attribute in record.attributes {
        if !is_attribute_name(&attribute.name) {
            return Err(value("attributes"));
        }
        if let Some(known) = attribute.value {
            attributes.insert(attribute.name, attribute_value(known)?);
        }
    }
    Ok(AgentRecord {
        agent: AgentId::try_from(&*record.agent).map_err(|_| value("agent"))?,
        peer,
        seq: record.seq,
        not_before: WallTime::from_unix_ms(record.not_before_ms),
        expires: WallTime::from_unix_ms(record.expires_ms),
        addrs: record.addrs.iter().filter_map(|addr| Multiaddr::try_from(addr.to_vec()).ok()).collect(),
        capabilities,
        attributes,
    })
}

fn attribute_value(known: wire::attribute::Value) -> Result<AttributeValue, DecodeError> {
    use wire::attribute::Value;
    Ok(match known {
        Value::Text(text) => AttributeValue::Text(text),
        Value::Integer(number) => AttributeValue::Integer(number),
        Value::Decimal(wire::Decimal { mantissa, scale }) => {
            let scale = u8::try_from(scale).map_err(|_| value("attributes"))?;
            let number = Decimal::new(mantissa, scale).ok_or(value("attributes"))?;
            // One form for one number: what was signed is what is shown.
            if number.scale() != scale {
                return Err(value("attributes"));
            }
            AttributeValue::Decimal(number)
        }
        Value::Flag(flag) => AttributeValue::Flag(flag),
    })
}

fn value(field: &'static str) -> DecodeError {
    DecodeError::Value { message: MESSAGE, field }
}
