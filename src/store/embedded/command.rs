use mlua::{Lua, MultiValue, Value};

use super::{
    dataset::{Dataset, MemoryFull, WrongType},
    values::StoredValue,
};

/// The reply of a command.
enum CommandReply {
    Nil,
    Ok,
    Integer(i64),
    Text(String),
    Texts(Vec<String>),
}

/// A command's error, in Redis's words.
struct CommandFailure(String);

/// `redis.call`: an error ends the script.
pub(super) fn call(lua: &Lua, args: &MultiValue) -> mlua::Result<Value> {
    let words = read_words(args)?;
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let Some(mut store) = lua.app_data_mut::<Dataset>() else {
        return Err(mlua::Error::runtime("the Lua state has no dataset"));
    };
    let answer = perform(&mut store, &words).map_err(|CommandFailure(message)| mlua::Error::runtime(message))?;
    drop(store);
    to_lua(lua, answer)
}

/// `redis.pcall`: an error is a table with the field `err`.
pub(super) fn pcall(lua: &Lua, args: MultiValue) -> mlua::Result<Value> {
    match call(lua, &args) {
        Ok(value) => Ok(value),
        Err(error) => {
            let table = lua.create_table()?;
            table.set("err", error.to_string())?;
            Ok(Value::Table(table))
        }
    }
}

/// The commands that the scripts use, with the semantics of Redis. Any other command, and any
/// other form of a command, is an error.
fn perform(store: &mut Dataset, words: &[&str]) -> Result<CommandReply, CommandFailure> {
    match words.first() {
        Some(&("SET" | "ZADD" | "HSET")) => store.write(true)?,
        Some(&("DEL" | "PEXPIRE" | "ZREM" | "ZREMRANGEBYSCORE" | "HDEL")) => store.write(false)?,
        _ => {}
    }
    match words {
        ["TIME"] => {
            let now_us = store.now_us();
            Ok(CommandReply::Texts(vec![(now_us / 1_000_000).to_string(), (now_us % 1_000_000).to_string()]))
        }
        ["GET", key] => get(store, key),
        ["SET", key, value, options @ ..] => set(store, key, value, options),
        ["DEL", keys @ ..] if !keys.is_empty() => {
            let removed = keys.iter().filter(|key| store.exists(key) && store.remove(key).is_some()).count();
            Ok(CommandReply::Integer(removed as i64))
        }
        ["EXISTS", keys @ ..] if !keys.is_empty() => {
            Ok(CommandReply::Integer(keys.iter().filter(|key| store.exists(key)).count() as i64))
        }
        ["PTTL", key] => Ok(CommandReply::Integer(match store.expiry_ms(key) {
            None => -2,
            Some(None) => -1,
            Some(Some(expires_ms)) => expires_ms as i64 - store.now_ms() as i64,
        })),
        ["PEXPIRE", key, ms] => expire(store, key, ms, false),
        ["PEXPIRE", key, ms, "GT"] => expire(store, key, ms, true),
        ["ZADD", key, "XX", score, member] => {
            let score = integer(score)?;
            store.change_sorted(key, false, |set| set.score(member).is_some() && set.put(member, score))?;
            Ok(CommandReply::Integer(0))
        }
        ["ZADD", key, score, member] => {
            let score = integer(score)?;
            let is_new = store.change_sorted(key, true, |set| set.put(member, score))?;
            Ok(CommandReply::Integer(is_new.unwrap_or_default().into()))
        }
        ["ZREM", key, member] => {
            let removed = store.change_sorted(key, false, |set| set.remove(member))?;
            store.remove_if_empty(key);
            Ok(CommandReply::Integer(removed.unwrap_or_default().into()))
        }
        ["ZSCORE", key, member] => {
            let score = store.sorted(key)?.and_then(|set| set.score(member));
            Ok(score.map_or(CommandReply::Nil, |score| CommandReply::Text(score.to_string())))
        }
        ["ZRANK", key, member] => {
            let rank = store.sorted(key)?.and_then(|set| set.ranked().position(|(_, other)| other == *member));
            Ok(rank.map_or(CommandReply::Nil, |rank| CommandReply::Integer(rank as i64)))
        }
        ["ZRANGE", key, from, to, options @ ..] => ranked(store, key, (from, to), options),
        ["ZRANGEBYSCORE", key, from, "+inf", "WITHSCORES", "LIMIT", "0", count] => {
            let (from, count) = (integer(from)?, integer(count)?.max(0) as usize);
            let found = store.sorted(key)?.map(|set| set.from(from).take(count).flat_map(with_score).collect());
            Ok(CommandReply::Texts(found.unwrap_or_default()))
        }
        ["ZRANGEBYSCORE", key, from, "+inf"] => {
            let from = integer(from)?;
            let found = store.sorted(key)?.map(|set| set.from(from).map(|(_, member)| member.to_owned()).collect());
            Ok(CommandReply::Texts(found.unwrap_or_default()))
        }
        ["ZRANGEBYSCORE", key, "-inf", to, "LIMIT", "0", count] => {
            let (to, count) = (integer(to)?, integer(count)?.max(0) as usize);
            let found = store.sorted(key)?.map(|set| {
                set.ranked()
                    .take_while(|(score, _)| *score <= to)
                    .take(count)
                    .map(|(_, member)| member.to_owned())
                    .collect()
            });
            Ok(CommandReply::Texts(found.unwrap_or_default()))
        }
        // Linear in the count: scripts use it on small sets, or rarely.
        ["ZCOUNT", key, from, "+inf"] => {
            let from = integer(from)?;
            Ok(CommandReply::Integer(store.sorted(key)?.map_or(0, |set| set.from(from).count() as i64)))
        }
        ["HGET", key, field] => {
            let found = store.hash(key)?.and_then(|hash| hash.get(field));
            Ok(found.map_or(CommandReply::Nil, |value| CommandReply::Text(value.to_owned())))
        }
        ["HSET", key, field, value] => {
            let is_new = store.change_hash(key, true, |hash| hash.put(field, value))?;
            Ok(CommandReply::Integer(is_new.unwrap_or_default().into()))
        }
        ["HDEL", key, field] => {
            let removed = store.change_hash(key, false, |hash| hash.remove(field))?;
            store.remove_if_empty(key);
            Ok(CommandReply::Integer(removed.unwrap_or_default().into()))
        }
        ["ZCARD", key] => Ok(CommandReply::Integer(store.sorted(key)?.map_or(0, |set| set.len() as i64))),
        ["ZREMRANGEBYSCORE", key, "-inf", below] => {
            let below = integer(below.strip_prefix('(').ok_or_else(|| unknown(words))?)?;
            let removed = store.change_sorted(key, false, |set| set.remove_below(below))?.unwrap_or_default();
            store.remove_if_empty(key);
            Ok(CommandReply::Integer(removed as i64))
        }
        ["PUBLISH", channel, message] => Ok(CommandReply::Integer(store.publish(channel, message) as i64)),
        _ => Err(unknown(words)),
    }
}

fn get(store: &mut Dataset, key: &str) -> Result<CommandReply, CommandFailure> {
    Ok(store.text(key)?.map_or(CommandReply::Nil, |text| CommandReply::Text(text.to_owned())))
}

fn set(store: &mut Dataset, key: &str, value: &str, options: &[&str]) -> Result<CommandReply, CommandFailure> {
    if options == ["GET"] {
        let before = get(store, key)?;
        store.set(key, StoredValue::Text(value.to_owned()), None);
        return Ok(before);
    }
    let (wanted, ms) = match options {
        [] => (None, None),
        ["PX", ms] => (None, Some(*ms)),
        ["NX", "PX", ms] => (Some(false), Some(*ms)),
        ["XX", "PX", ms] => (Some(true), Some(*ms)),
        _ => return Err(CommandFailure("ERR syntax error".into())),
    };
    let expires_ms = match ms.map(integer).transpose()? {
        Some(ms) if ms <= 0 => return Err(CommandFailure("ERR invalid expire time in 'set' command".into())),
        Some(ms) => Some(store.now_ms().saturating_add_signed(ms)),
        None => None,
    };
    if wanted.is_some_and(|wanted| wanted != store.exists(key)) {
        return Ok(CommandReply::Nil);
    }
    store.set(key, StoredValue::Text(value.to_owned()), expires_ms);
    Ok(CommandReply::Ok)
}

/// The members between two ranks, inclusive. A negative rank counts from the end.
fn ranked(
    store: &mut Dataset,
    key: &str,
    ranks: (&str, &str),
    options: &[&str],
) -> Result<CommandReply, CommandFailure> {
    let Some(set) = store.sorted(key)? else { return Ok(CommandReply::Texts(Vec::new())) };
    let rank = |word: &str| -> Result<i64, CommandFailure> {
        let rank = integer(word)?;
        Ok(if rank < 0 { rank + set.len() as i64 } else { rank })
    };
    let (from, to) = (rank(ranks.0)?.max(0), rank(ranks.1)?);
    let found: Vec<_> = match (from, to) {
        // The last member: a frequent query.
        (from, to) if from == to && to + 1 == set.len() as i64 => set.ranked().next_back().into_iter().collect(),
        (from, to) => set.ranked().skip(from as usize).take((to + 1 - from).max(0) as usize).collect(),
    };
    Ok(CommandReply::Texts(match options {
        [] => found.into_iter().map(|(_, member)| member.to_owned()).collect(),
        ["WITHSCORES"] => found.into_iter().flat_map(with_score).collect(),
        _ => return Err(CommandFailure("ERR syntax error".into())),
    }))
}

fn with_score((score, member): (i64, &str)) -> [String; 2] {
    [member.to_owned(), score.to_string()]
}

/// With `only_later` (`GT`), the expiry is never earlier than before, and a key without expiry
/// keeps none.
fn expire(store: &mut Dataset, key: &str, ms: &str, only_later: bool) -> Result<CommandReply, CommandFailure> {
    let ms = integer(ms)?;
    let expires_ms = store.now_ms().saturating_add_signed(ms);
    let Some(current) = store.expiry_ms(key) else { return Ok(CommandReply::Integer(0)) };
    if only_later && current.is_none_or(|current| expires_ms <= current) {
        return Ok(CommandReply::Integer(0));
    }
    if ms <= 0 {
        store.remove(key);
    } else {
        store.set_expiry(key, expires_ms);
    }
    Ok(CommandReply::Integer(1))
}

fn integer(word: &str) -> Result<i64, CommandFailure> {
    word.parse().map_err(|_| CommandFailure("ERR value is not an integer or out of range".into()))
}

fn unknown(words: &[&str]) -> CommandFailure {
    CommandFailure(format!("ERR the embedded store has no such command: {}", words.join(" ")))
}

/// Converts arguments to strings like Redis: whole numbers have no fraction.
fn read_words(args: &MultiValue) -> mlua::Result<Vec<String>> {
    let word = |arg: &Value| match arg {
        Value::String(text) => Ok(text.to_str()?.to_owned()),
        Value::Integer(number) => Ok(number.to_string()),
        Value::Number(number) => Ok(number.to_string()),
        _ => Err(mlua::Error::runtime("ERR command arguments must be strings or integers")),
    };
    args.iter().map(word).collect()
}

fn to_lua(lua: &Lua, answer: CommandReply) -> mlua::Result<Value> {
    Ok(match answer {
        CommandReply::Nil => Value::Boolean(false),
        CommandReply::Integer(number) => Value::Number(number as f64),
        CommandReply::Text(text) => Value::String(lua.create_string(text)?),
        CommandReply::Texts(texts) => Value::Table(lua.create_sequence_from(texts)?),
        CommandReply::Ok => {
            let table = lua.create_table()?;
            table.set("ok", "OK")?;
            Value::Table(table)
        }
    })
}

impl From<MemoryFull> for CommandFailure {
    fn from(MemoryFull: MemoryFull) -> Self {
        Self("OOM the embedded store has reached LOCKABLE_EMBEDDED_MEMORY".into())
    }
}

impl From<WrongType> for CommandFailure {
    fn from(WrongType: WrongType) -> Self {
        Self("WRONGTYPE Operation against a key holding the wrong kind of value".into())
    }
}
