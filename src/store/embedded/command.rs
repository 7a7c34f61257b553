use mlua::{Lua, MultiValue, Value};

use super::{
    dataset::{Dataset, Full, WrongType},
    values::Stored,
};

/// What a command answers.
enum Answer {
    Nil,
    Ok,
    Integer(i64),
    Text(String),
    Texts(Vec<String>),
}

/// Why a command failed, in Redis's words.
struct Failure(String);

/// `redis.call`: an error ends the script.
pub(super) fn call(lua: &Lua, args: &MultiValue) -> mlua::Result<Value> {
    let words = read_words(args)?;
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let Some(mut store) = lua.app_data_mut::<Dataset>() else {
        return Err(mlua::Error::runtime("the store has no store"));
    };
    let answer = perform(&mut store, &words).map_err(|Failure(message)| mlua::Error::runtime(message))?;
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

/// The commands that the scripts use, with Redis's semantics, and no more. A
/// form of a command that is not listed is an error here, not a guess.
fn perform(store: &mut Dataset, words: &[&str]) -> Result<Answer, Failure> {
    match words.first() {
        Some(&("SET" | "ZADD" | "HSET")) => store.write(true)?,
        Some(&("DEL" | "PEXPIRE" | "ZREM" | "ZREMRANGEBYSCORE" | "HDEL")) => store.write(false)?,
        _ => {}
    }
    match words {
        ["TIME"] => {
            let now_us = store.now_us();
            Ok(Answer::Texts(vec![(now_us / 1_000_000).to_string(), (now_us % 1_000_000).to_string()]))
        }
        ["GET", key] => get(store, key),
        ["SET", key, value, options @ ..] => set(store, key, value, options),
        ["DEL", keys @ ..] if !keys.is_empty() => {
            let gone = keys.iter().filter(|key| store.exists(key) && store.remove(key).is_some()).count();
            Ok(Answer::Integer(gone as i64))
        }
        ["EXISTS", keys @ ..] if !keys.is_empty() => {
            Ok(Answer::Integer(keys.iter().filter(|key| store.exists(key)).count() as i64))
        }
        ["PTTL", key] => Ok(Answer::Integer(match store.expiry_ms(key) {
            None => -2,
            Some(None) => -1,
            Some(Some(expires_ms)) => expires_ms as i64 - store.now_ms() as i64,
        })),
        ["PEXPIRE", key, ms] => expire(store, key, ms, false),
        ["PEXPIRE", key, ms, "GT"] => expire(store, key, ms, true),
        ["ZADD", key, "XX", score, member] => {
            let score = integer(score)?;
            store.change_sorted(key, false, |set| set.score(member).is_some() && set.put(member, score))?;
            Ok(Answer::Integer(0))
        }
        ["ZADD", key, score, member] => {
            let score = integer(score)?;
            let is_new = store.change_sorted(key, true, |set| set.put(member, score))?;
            Ok(Answer::Integer(is_new.unwrap_or_default().into()))
        }
        ["ZREM", key, member] => {
            let gone = store.change_sorted(key, false, |set| set.remove(member))?;
            store.remove_if_empty(key);
            Ok(Answer::Integer(gone.unwrap_or_default().into()))
        }
        ["ZSCORE", key, member] => {
            let score = store.sorted(key)?.and_then(|set| set.score(member));
            Ok(score.map_or(Answer::Nil, |score| Answer::Text(score.to_string())))
        }
        ["ZRANK", key, member] => {
            let rank = store.sorted(key)?.and_then(|set| set.ranked().position(|(_, other)| other == *member));
            Ok(rank.map_or(Answer::Nil, |rank| Answer::Integer(rank as i64)))
        }
        ["ZRANGE", key, from, to, options @ ..] => ranked(store, key, (from, to), options),
        ["ZRANGEBYSCORE", key, from, "+inf", "WITHSCORES", "LIMIT", "0", count] => {
            let (from, count) = (integer(from)?, integer(count)?.max(0) as usize);
            let found = store.sorted(key)?.map(|set| set.from(from).take(count).flat_map(with_score).collect());
            Ok(Answer::Texts(found.unwrap_or_default()))
        }
        ["ZRANGEBYSCORE", key, from, "+inf"] => {
            let from = integer(from)?;
            let found = store.sorted(key)?.map(|set| set.from(from).map(|(_, member)| member.to_owned()).collect());
            Ok(Answer::Texts(found.unwrap_or_default()))
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
            Ok(Answer::Texts(found.unwrap_or_default()))
        }
        // Linear in what it counts: scripts ask for it where that is little, or rarely.
        ["ZCOUNT", key, from, "+inf"] => {
            let from = integer(from)?;
            Ok(Answer::Integer(store.sorted(key)?.map_or(0, |set| set.from(from).count() as i64)))
        }
        ["HGET", key, field] => {
            let found = store.hash(key)?.and_then(|hash| hash.get(field));
            Ok(found.map_or(Answer::Nil, |value| Answer::Text(value.to_owned())))
        }
        ["HSET", key, field, value] => {
            let is_new = store.change_hash(key, true, |hash| hash.put(field, value))?;
            Ok(Answer::Integer(is_new.unwrap_or_default().into()))
        }
        ["HDEL", key, field] => {
            let gone = store.change_hash(key, false, |hash| hash.remove(field))?;
            store.remove_if_empty(key);
            Ok(Answer::Integer(gone.unwrap_or_default().into()))
        }
        ["ZCARD", key] => Ok(Answer::Integer(store.sorted(key)?.map_or(0, |set| set.len() as i64))),
        ["ZREMRANGEBYSCORE", key, "-inf", below] => {
            let below = integer(below.strip_prefix('(').ok_or_else(|| unknown(words))?)?;
            let gone = store.change_sorted(key, false, |set| set.remove_below(below))?.unwrap_or_default();
            store.remove_if_empty(key);
            Ok(Answer::Integer(gone as i64))
        }
        ["PUBLISH", channel, message] => Ok(Answer::Integer(store.publish(channel, message) as i64)),
        _ => Err(unknown(words)),
    }
}

fn get(store: &mut Dataset, key: &str) -> Result<Answer, Failure> {
    Ok(store.text(key)?.map_or(Answer::Nil, |text| Answer::Text(text.to_owned())))
}

fn set(store: &mut Dataset, key: &str, value: &str, options: &[&str]) -> Result<Answer, Failure> {
    if options == ["GET"] {
        let before = get(store, key)?;
        store.set(key, Stored::Text(value.to_owned()), None);
        return Ok(before);
    }
    let (wanted, ms) = match options {
        [] => (None, None),
        ["PX", ms] => (None, Some(*ms)),
        ["NX", "PX", ms] => (Some(false), Some(*ms)),
        ["XX", "PX", ms] => (Some(true), Some(*ms)),
        _ => return Err(Failure("ERR syntax error".into())),
    };
    let expires_ms = match ms.map(integer).transpose()? {
        Some(ms) if ms <= 0 => return Err(Failure("ERR invalid expire time in 'set' command".into())),
        Some(ms) => Some(store.now_ms().saturating_add_signed(ms)),
        None => None,
    };
    if wanted.is_some_and(|wanted| wanted != store.exists(key)) {
        return Ok(Answer::Nil);
    }
    store.set(key, Stored::Text(value.to_owned()), expires_ms);
    Ok(Answer::Ok)
}

/// The members between two ranks, both included. Negative ones count from the
/// end.
fn ranked(store: &mut Dataset, key: &str, ranks: (&str, &str), options: &[&str]) -> Result<Answer, Failure> {
    let Some(set) = store.sorted(key)? else { return Ok(Answer::Texts(Vec::new())) };
    let rank = |word: &str| -> Result<i64, Failure> {
        let rank = integer(word)?;
        Ok(if rank < 0 { rank + set.len() as i64 } else { rank })
    };
    let (from, to) = (rank(ranks.0)?.max(0), rank(ranks.1)?);
    let found: Vec<_> = match (from, to) {
        // The last one is asked for often.
        (from, to) if from == to && to + 1 == set.len() as i64 => set.ranked().next_back().into_iter().collect(),
        (from, to) => set.ranked().skip(from as usize).take((to + 1 - from).max(0) as usize).collect(),
    };
    Ok(Answer::Texts(match options {
        [] => found.into_iter().map(|(_, member)| member.to_owned()).collect(),
        ["WITHSCORES"] => found.into_iter().flat_map(with_score).collect(),
        _ => return Err(Failure("ERR syntax error".into())),
    }))
}

fn with_score((score, member): (i64, &str)) -> [String; 2] {
    [member.to_owned(), score.to_string()]
}

/// With `only_later` an expiry is not brought forward, and a key without one,
/// which counts as lasting for ever, is left alone.
fn expire(store: &mut Dataset, key: &str, ms: &str, only_later: bool) -> Result<Answer, Failure> {
    let ms = integer(ms)?;
    let expires_ms = store.now_ms().saturating_add_signed(ms);
    let Some(current) = store.expiry_ms(key) else { return Ok(Answer::Integer(0)) };
    if only_later && current.is_none_or(|current| expires_ms <= current) {
        return Ok(Answer::Integer(0));
    }
    if ms <= 0 {
        store.remove(key);
    } else {
        store.set_expiry(key, expires_ms);
    }
    Ok(Answer::Integer(1))
}

fn integer(word: &str) -> Result<i64, Failure> {
    word.parse().map_err(|_| Failure("ERR value is not an integer or out of range".into()))
}

fn unknown(words: &[&str]) -> Failure {
    Failure(format!("ERR the embedded store has no such command: {}", words.join(" ")))
}

/// Numbers become words as in Redis: whole ones without a fraction.
fn read_words(args: &MultiValue) -> mlua::Result<Vec<String>> {
    let word = |arg: &Value| match arg {
        Value::String(text) => Ok(text.to_str()?.to_owned()),
        Value::Integer(number) => Ok(number.to_string()),
        Value::Number(number) => Ok(number.to_string()),
        _ => Err(mlua::Error::runtime("ERR command arguments must be strings or integers")),
    };
    args.iter().map(word).collect()
}

fn to_lua(lua: &Lua, answer: Answer) -> mlua::Result<Value> {
    Ok(match answer {
        Answer::Nil => Value::Boolean(false),
        Answer::Integer(number) => Value::Number(number as f64),
        Answer::Text(text) => Value::String(lua.create_string(text)?),
        Answer::Texts(texts) => Value::Table(lua.create_sequence_from(texts)?),
        Answer::Ok => {
            let table = lua.create_table()?;
            table.set("ok", "OK")?;
            Value::Table(table)
        }
    })
}

impl From<Full> for Failure {
    fn from(Full: Full) -> Self {
        Self("OOM the embedded store holds as much as LOCKABLE_EMBEDDED_MEMORY allows".into())
    }
}

impl From<WrongType> for Failure {
    fn from(WrongType: WrongType) -> Self {
        Self("WRONGTYPE Operation against a key holding the wrong kind of value".into())
    }
}
