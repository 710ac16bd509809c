//! Makes a fuzzer's inputs from valid ones by random changes. An input depends only on its random stream, so it can be
//! made again.

use nanochat_tensor::Rng;
use serde_json::{Map, Value, json};

/// Returns `seed` with one to four changes of its bytes. Splices insert a piece of one of `others`.
pub fn bytes(seed: &[u8], others: &[Vec<u8>], rng: &mut Rng) -> Vec<u8> {
    let mut bytes = seed.to_vec();
    for _ in 0..=rng.below(4) {
        let at = rng.below(bytes.len().max(1));
        let piece = at..(at + 1 + rng.below(64)).min(bytes.len()).max(at);
        match rng.below(8) {
            _ if bytes.is_empty() => bytes.push(rng.below(256) as u8),
            0 => bytes[at] ^= 1 << rng.below(8),
            1 => bytes[at] = *rng.choose(&[0, 1, 0x7f, 0x80, 0xff, b'"', b'{', b'[', b'\\', b'\n']),
            2 => drop(bytes.drain(piece)),
            3 => bytes.truncate(at),
            4 => {
                let copy = bytes[piece].repeat(1 + rng.below(50));
                bytes.splice(at..at, copy);
            }
            5 | 6 => {
                // Files store lengths and offsets as integers of 1 to 8 bytes.
                let number =
                    *rng.choose(&[0, 1, u64::MAX, 1 << 31, (1 << 31) - 1, 1 << 32, 1 << 40, 1 << 63]);
                let width = (1 << rng.below(4)).min(bytes.len() - at);
                bytes[at..at + width].copy_from_slice(&number.to_le_bytes()[..width]);
            }
            _ => {
                let other = rng.choose(others);
                let from = rng.below(other.len().max(1)).min(other.len());
                let to = (from + rng.below(200)).min(other.len());
                bytes.splice(at..at, other[from..to].iter().copied());
            }
        }
    }
    bytes
}

/// Returns a changed form of a JSON text `seed`, which is one of `seeds`. Three of four stay JSON, so that the parser
/// does not refuse them all.
pub fn json_or_bytes(seed: &[u8], seeds: &[Vec<u8>], rng: &mut Rng) -> Vec<u8> {
    if rng.below(4) == 0 {
        return bytes(seed, seeds, rng);
    }
    let parsed = |text: &[u8]| -> Value { serde_json::from_slice(text).expect("seeds are JSON") };
    let mut found = vec![String::new()];
    for text in [seed, rng.choose(seeds).as_slice()] {
        words(&parsed(text), &mut found);
    }
    json(&parsed(seed), &found, rng).to_string().into_bytes()
}

/// Returns `seed` with one to four changes of its values and keys. New strings and keys come from `words`.
fn json(seed: &Value, words: &[String], rng: &mut Rng) -> Value {
    let mut value = seed.clone();
    for _ in 0..=rng.below(4) {
        let other = nth(&mut value.clone(), rng).clone();
        let strange = strange(words, rng);
        let place = nth(&mut value, rng);
        match (place, rng.below(6)) {
            (Value::Object(map), change) if !map.is_empty() => change_object(map, change, words, other, rng),
            (Value::Array(items), change) if !items.is_empty() => {
                let at = rng.below(items.len());
                match change {
                    0 => drop(items.remove(at)),
                    1 => items.insert(at, other),
                    2 => items.extend(vec![items[at].clone(); rng.below(500)]),
                    3 => items.swap(at, 0),
                    _ => items[at] = strange,
                }
            }
            (place, 0) => *place = other,
            (place, _) => *place = strange,
        }
    }
    value
}

fn change_object(map: &mut Map<String, Value>, change: usize, words: &[String], other: Value, rng: &mut Rng) {
    let key = map.keys().nth(rng.below(map.len())).cloned().unwrap_or_default();
    match change {
        0 | 1 => drop(map.remove(&key)),
        2 => {
            let value = map.remove(&key).unwrap_or_default();
            map.insert(rng.choose(words).clone(), value);
        }
        3 => drop(map.insert(rng.choose(words).clone(), other)),
        4 => drop(map.insert(rng.choose(words).clone(), strange(words, rng))),
        _ => drop(map.insert(key, strange(words, rng))),
    }
}

/// Collects every key and every string of `value`.
fn words(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::String(text) => found.push(text.clone()),
        Value::Array(items) => items.iter().for_each(|item| words(item, found)),
        Value::Object(map) => map.iter().for_each(|(key, value)| {
            found.push(key.clone());
            words(value, found);
        }),
        _ => {}
    }
}

/// Returns a value that few programs expect.
fn strange(words: &[String], rng: &mut Rng) -> Value {
    match rng.below(12) {
        0 => Value::Null,
        1 => json!(rng.below(2) == 0),
        2 | 3 => json!(*rng.choose(&[0, 1, 2, -1, i64::MIN, i64::MAX, 1 << 31, 1 << 32, (1 << 53) + 1])),
        4 => json!(*rng.choose(&[0.5, -0.5, 1e308, -1e308, 1e-308, 1.0, 1e19])),
        5 => json!(u64::MAX),
        6 => json!(rng.choose(&[
            "",
            " ",
            "\0",
            "\u{feff}",
            "\u{10ffff}",
            "../../etc/passwd",
            "NaN",
            "(?:a|a)*b"
        ])),
        7 => json!("x".repeat(rng.below(100_000))),
        8 => json!([]),
        9 => json!({}),
        10 => (0..rng.below(120)).fold(json!(1), |inner, _| json!([inner])),
        _ => json!(rng.choose(words)),
    }
}

/// Returns a random value inside `value` (or itself), each with equal probability.
fn nth<'a>(value: &'a mut Value, rng: &mut Rng) -> &'a mut Value {
    let mut n = rng.below(count(value));
    let mut place = value;
    loop {
        if n == 0 {
            return place;
        }
        n -= 1;
        let children: Vec<&mut Value> = match place {
            Value::Array(items) => items.iter_mut().collect(),
            Value::Object(map) => map.values_mut().collect(),
            _ => unreachable!("a scalar has one value"),
        };
        let mut next = None;
        for child in children {
            let inside = count(child);
            if n < inside {
                next = Some(child);
                break;
            }
            n -= inside;
        }
        place = next.expect("n is less than the values of all children");
    }
}

fn count(value: &Value) -> usize {
    1 + match value {
        Value::Array(items) => items.iter().map(count).sum(),
        Value::Object(map) => map.values().map(count).sum(),
        _ => 0,
    }
}
