//! Whether a server drops rows of a hot table when it is full.

use busbar_connector::HotPlace;
use busbar_event::{Class, Error};

use super::hot::refusal;
use super::link::{RedisLink, closed};
use super::wire::{Commands, Reply};

/// Asks a server and refuses one that drops keys of its own accord, positions among them: what it is set to may have changed
/// since the session before.
///
/// # Errors
/// `redis.evicts`, or those of the session.
pub async fn check_session(
    connection: &str,
    address: &str,
    place: &HotPlace,
    link: &mut RedisLink,
) -> Result<(), Error> {
    let mut commands = Commands::default();
    ask_memory(&mut commands);
    let replies = link.run(&commands).await?;
    let memory = replies.first().ok_or_else(|| closed(address))?;
    check_memory(connection, address, place, memory)
}

/// Adds the command that [`check_memory`] takes the answer of.
pub fn ask_memory(commands: &mut Commands) {
    commands.add(&[b"INFO", b"memory"]);
}

/// Refuses a server that drops keys of its own accord, by its answer.
///
/// # Errors
/// `redis.evicts`.
pub fn check_memory(
    connection: &str,
    address: &str,
    place: &HotPlace,
    memory: &Reply,
) -> Result<(), Error> {
    if let Some(said) = refusal(memory) {
        tracing::warn!(connection, table = %place.table, said,
            "whether Redis may drop rows when it is full is not known: its user lacks the right +info");
        return Ok(());
    }
    let text = memory.text().unwrap_or_default();
    let value = |name: &str| {
        let mut lines = text.lines();
        lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
    };
    let is_bounded = value("maxmemory").is_some_and(|bytes| bytes.trim() != "0");
    let policy = value("maxmemory_policy").unwrap_or_default().trim();
    if is_bounded && policy.starts_with("allkeys") {
        return Err(Error::new(Class::Configuration, "redis.evicts")
            .with("address", address)
            .with("policy", policy)
            .with("table", &place.table));
    }
    if is_bounded && policy.starts_with("volatile") && place.ttl.is_some() && !place.moves {
        tracing::warn!(connection, table = %place.table, policy,
            "Redis drops rows before their time to live is over when it is full; with maxmemory-policy noeviction it refuses writes instead");
    }
    Ok(())
}
