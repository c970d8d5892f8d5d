//! Sends messages to the inbox, as a producer does. This needs only Redis, so commands such as `stop` run on any host.

use serde_json::{Map, Value, json};
use topup_jobs::{TopupId, accept};

use crate::config::{RedisSettings, SettingsError};
use crate::redis::{Connection, describe};

/// Maximum number of messages per pipeline.
const MAX_SENT: usize = 500;

/// A message in the form of `XADD`: the names and values of its fields.
pub(super) type Fields = Vec<(&'static str, String)>;

pub(super) fn about(name: &'static str, topup_id: &TopupId, more: Map<String, Value>) -> Fields {
    let mut data = Map::from_iter([("topupId".to_owned(), json!(topup_id))]);
    data.extend(more);
    vec![("name", name.to_owned()), ("data", Value::Object(data).to_string())]
}

/// Validates a message more strictly than a worker: a field that a worker would ignore or change is an error here.
pub(super) fn check(fields: &Fields) -> Result<(), SettingsError> {
    let bytes: Vec<_> = fields.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes())).collect();
    let refused =
        |why: topup_jobs::Rejection| SettingsError::Unusable { name: "the message", why: why.to_string() };
    match accept(&bytes).map_err(refused)?.remarks.into_iter().next() {
        Some(remark) => Err(SettingsError::Unusable { name: "the message", why: remark }),
        None => Ok(()),
    }
}

/// Adds messages to the inbox and returns the ids that Redis gave them.
pub(super) async fn send(
    connection: &Connection,
    settings: &RedisSettings,
    messages: &[Fields],
) -> anyhow::Result<Vec<String>> {
    let mut ids = Vec::with_capacity(messages.len());
    for part in messages.chunks(MAX_SENT) {
        let mut add = redis::pipe();
        for fields in part {
            add.cmd("XADD").arg(settings.prefix.inbox()).arg("*").arg(fields);
        }
        let added: redis::RedisResult<Vec<String>> = add.query_async(&mut connection.get()).await;
        ids.extend(added.map_err(|error| {
            let (taken, all) = (ids.len(), messages.len());
            let why = describe(&error);
            if all == 1 {
                anyhow::anyhow!("Redis did not accept the message: {why}")
            } else {
                anyhow::anyhow!(
                    "Redis accepted {taken} of {all} messages, then failed: {why}. Run the command again; a message \
                     that is sent twice does no harm"
                )
            }
        })?);
    }
    Ok(ids)
}
