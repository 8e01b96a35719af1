//! A second reader of BER with definite lengths, and mutations of what it reads.

use crate::random::Random;

/// One element, as it stands in the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Element<'a> {
    /// The identifier octet; multi-byte tags are not read.
    pub tag: u8,
    /// The contents.
    pub content: &'a [u8],
    /// The element with tag and length.
    pub raw: &'a [u8],
}

/// The first element of `bytes` and what follows it.
pub fn first(bytes: &[u8]) -> Option<(Element<'_>, &[u8])> {
    let (&tag, after_tag) = bytes.split_first()?;
    if tag & 0x1f == 0x1f {
        return None;
    }
    let (&length, mut rest) = after_tag.split_first()?;
    let length = match length {
        0..=0x7f => usize::from(length),
        0x81..=0x84 => {
            let octets;
            (octets, rest) = rest.split_at_checked(usize::from(length & 0x7f))?;
            octets
                .iter()
                .fold(0, |length, octet| length << 8 | usize::from(*octet))
        }
        _ => return None,
    };
    let (content, after) = rest.split_at_checked(length)?;
    let raw = &bytes[..bytes.len() - after.len()];
    Some((Element { tag, content, raw }, after))
}

/// The one element that fills `bytes`.
pub fn only(bytes: &[u8]) -> Option<Element<'_>> {
    first(bytes).and_then(|(element, rest)| rest.is_empty().then_some(element))
}

/// The elements that fill `bytes`.
pub fn all(mut bytes: &[u8]) -> Option<Vec<Element<'_>>> {
    let mut elements = Vec::new();
    while !bytes.is_empty() {
        let element;
        (element, bytes) = first(bytes)?;
        elements.push(element);
    }
    Some(elements)
}

/// The elements in the element of this tag that fills `bytes`.
pub fn children(bytes: &[u8], tag: u8) -> Option<Vec<Element<'_>>> {
    only(bytes)
        .filter(|element| element.tag == tag)
        .and_then(|element| all(element.content))
}

/// Whether the elements that fill `bytes`, and what they are made of down to `depth`, have the lengths that DER wants.
pub fn has_least_lengths(bytes: &[u8], depth: usize) -> bool {
    all(bytes).is_some_and(|elements| {
        elements.iter().all(|element| {
            let header = element.raw.len() - element.content.len();
            let least = match element.content.len() {
                0..=0x7f => 2,
                0x80..=0xff => 3,
                0x100..=0xffff => 4,
                _ => 5,
            };
            let inside = element.tag & 0x20 == 0 || depth == 0;
            header == least && (inside || has_least_lengths(element.content, depth - 1))
        })
    })
}

/// SEQUENCE.
pub const SEQUENCE: u8 = 0x30;
/// SET.
pub const SET: u8 = 0x31;
/// INTEGER.
pub const INTEGER: u8 = 0x02;
/// BIT STRING.
pub const BIT_STRING: u8 = 0x03;
/// OCTET STRING.
pub const OCTET_STRING: u8 = 0x04;
/// OBJECT IDENTIFIER.
pub const OID: u8 = 0x06;

/// An element that can be changed: what strings wrap is read too.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// The identifier octet.
    pub tag: u8,
    /// What it holds.
    pub value: Value,
}

/// What an element holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// Bytes.
    Bytes(Vec<u8>),
    /// Elements, after bytes that are none (the unused bits of a BIT STRING).
    Nodes(Vec<u8>, Vec<Node>),
}

/// The elements that fill `bytes`, as a tree.
pub fn parse(bytes: &[u8]) -> Option<Vec<Node>> {
    parse_at(bytes, 0)
}

fn parse_at(bytes: &[u8], depth: usize) -> Option<Vec<Node>> {
    if depth > 32 {
        return None;
    }
    let elements = all(bytes)?;
    Some(
        elements
            .into_iter()
            .map(|Element { tag, content, .. }| {
                let prefix = usize::from(tag == BIT_STRING && content.first() == Some(&0));
                let holds_elements = tag & 0x20 != 0
                    || matches!(tag, OCTET_STRING | BIT_STRING) && content.len() > 2;
                let nodes = holds_elements
                    .then(|| parse_at(&content[prefix..], depth + 1))
                    .flatten();
                let value = match nodes {
                    Some(nodes) => Value::Nodes(content[..prefix].to_vec(), nodes),
                    None => Value::Bytes(content.to_vec()),
                };
                Node { tag, value }
            })
            .collect(),
    )
}

/// The elements in DER.
pub fn encode(nodes: &[Node]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for node in nodes {
        let content = match &node.value {
            Value::Bytes(content) => content.clone(),
            Value::Nodes(prefix, nodes) => {
                let mut content = prefix.clone();
                content.extend(encode(nodes));
                content
            }
        };
        bytes.push(node.tag);
        let length = content.len().to_be_bytes();
        match content.len() {
            0..0x80 => bytes.push(length[7]),
            0x80..0x100 => bytes.extend([0x81, length[7]]),
            0x100..0x1_0000 => bytes.extend([0x82, length[6], length[7]]),
            _ => bytes.extend([0x83, length[5], length[6], length[7]]),
        }
        bytes.extend(content);
    }
    bytes
}

/// Changes one element or the order of two. `palette` are elements worth inserting, `change` mutates bytes.
pub fn mutate(
    nodes: &mut Vec<Node>,
    palette: &[Node],
    random: &mut Random,
    change: &mut dyn FnMut(&mut Vec<u8>),
) {
    let count: usize = nodes.iter().map(size).sum();
    let donor = match palette.len() {
        0 => nth(nodes, random.below(count)).cloned(),
        _ if random.below(2) == 0 => nth(nodes, random.below(count)).cloned(),
        length => palette.get(random.below(length)).cloned(),
    };
    let mut place = random.below(count);
    if let Some((siblings, at)) = locate(nodes, &mut place) {
        mutate_at(siblings, at, donor, random, change);
    }
}

fn mutate_at(
    siblings: &mut Vec<Node>,
    at: usize,
    donor: Option<Node>,
    random: &mut Random,
    change: &mut dyn FnMut(&mut Vec<u8>),
) {
    match random.below(10) {
        0 => {
            siblings.remove(at);
        }
        1 => {
            let copy = siblings[at].clone();
            siblings.insert(at, copy);
        }
        2 => {
            let other = random.below(siblings.len());
            siblings.swap(at, other);
        }
        3 => siblings[at].tag = TAGS[random.below(TAGS.len())],
        4 => siblings[at].tag ^= 1 << random.below(8),
        5 => siblings.extend(donor),
        6 => siblings.splice(at..at, donor).for_each(drop),
        7 => {
            if let Some(donor) = donor {
                siblings[at] = donor;
            }
        }
        _ => {
            if let Value::Nodes(prefix, nodes) = &siblings[at].value {
                let mut bytes = prefix.clone();
                bytes.extend(encode(nodes));
                siblings[at].value = Value::Bytes(bytes);
            }
            if let Value::Bytes(bytes) = &mut siblings[at].value {
                change(bytes);
            }
        }
    }
}

const TAGS: [u8; 16] = [
    0x01, 0x02, 0x03, 0x04, 0x05, 0x06, 0x0c, 0x13, 0x16, 0x17, 0x18, 0x30, 0x31, 0x82, 0x86, 0xa0,
];

fn size(node: &Node) -> usize {
    match &node.value {
        Value::Bytes(_) => 1,
        Value::Nodes(_, nodes) => 1 + nodes.iter().map(size).sum::<usize>(),
    }
}

fn nth(nodes: &[Node], mut place: usize) -> Option<&Node> {
    for node in nodes {
        if place == 0 {
            return Some(node);
        }
        let size = size(node);
        if place < size {
            return match &node.value {
                Value::Bytes(_) => None,
                Value::Nodes(_, nodes) => nth(nodes, place - 1),
            };
        }
        place -= size;
    }
    None
}

fn locate<'n>(nodes: &'n mut Vec<Node>, place: &mut usize) -> Option<(&'n mut Vec<Node>, usize)> {
    let mut found = None;
    for (at, node) in nodes.iter().enumerate() {
        let size = size(node);
        if *place < size {
            found = Some(at);
            break;
        }
        *place -= size;
    }
    let at = found?;
    if *place == 0 {
        return Some((nodes, at));
    }
    *place -= 1;
    match &mut nodes[at].value {
        Value::Bytes(_) => None,
        Value::Nodes(_, nodes) => locate(nodes, place),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_der_is_printed_as_it_was() {
        let bytes = [
            0x30, 0x0b, 0x02, 0x01, 0x05, 0x04, 0x04, 0x30, 0x02, 0x05, 0x00, 0x05, 0x00,
        ];
        let nodes = parse(&bytes).expect("well formed");
        assert_eq!(encode(&nodes), bytes);
        assert_eq!(nodes.iter().map(size).sum::<usize>(), 6);
        for place in 0..6 {
            let node = nth(&nodes, place).expect("is there").clone();
            let mut changed = nodes.clone();
            let (siblings, at) = locate(&mut changed, &mut place.clone()).expect("is there");
            assert_eq!(siblings[at], node);
        }
        assert_eq!(parse(&bytes[..12]), None);
    }

    #[test]
    fn every_length_of_length() {
        for length in [0, 127, 128, 255, 256, 65535, 65536] {
            let node = Node {
                tag: OCTET_STRING,
                value: Value::Bytes(vec![0xff; length]),
            };
            let bytes = encode(std::slice::from_ref(&node));
            assert_eq!(only(&bytes).expect("one element").content.len(), length);
            assert_eq!(parse(&bytes), Some(vec![node]));
        }
    }
}
