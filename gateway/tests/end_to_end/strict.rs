//! A second opinion: a reader of HTTP/1.1 requests that allows nothing which two servers could read in two
//! ways, written against RFC 9112 and not against the gateway.

/// One request, as it stood on the wire.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Message {
    pub(crate) method: String,
    pub(crate) target: String,
    /// The minor version.
    pub(crate) version: u8,
    pub(crate) fields: Vec<(String, Vec<u8>)>,
    pub(crate) body: Vec<u8>,
    pub(crate) trailers: Vec<(String, Vec<u8>)>,
}

/// What the first bytes of a stream are.
#[derive(Debug)]
pub(crate) enum Reading {
    /// A request, and how many bytes it has.
    Request(Box<Message>, usize),
    /// The beginning of one.
    Incomplete,
    /// Something that has no one meaning.
    Malformed(&'static str),
}

impl Message {
    /// The values of a field, by its exact name in any case.
    pub(crate) fn values(&self, name: &str) -> Vec<&[u8]> {
        self.fields
            .iter()
            .filter(|(field, _)| field.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_slice())
            .collect()
    }

    /// Whether it may turn the connection into something else.
    pub(crate) fn asks_for_websocket(&self) -> bool {
        let says = |name: &str, token: &str| {
            self.values(name).iter().any(|value| {
                String::from_utf8_lossy(value)
                    .split(',')
                    .any(|item| item.trim().eq_ignore_ascii_case(token))
            })
        };
        self.method == "GET" && says("upgrade", "websocket") && says("connection", "upgrade")
    }
}

/// Reads the first request of a stream.
pub(crate) fn read(stream: &[u8]) -> Reading {
    match message(stream) {
        Ok((message, used)) => Reading::Request(Box::new(message), used),
        Err(Stop::Incomplete) => Reading::Incomplete,
        Err(Stop::Malformed(why)) => Reading::Malformed(why),
    }
}

enum Stop {
    Incomplete,
    Malformed(&'static str),
}

fn malformed<T>(why: &'static str) -> Result<T, Stop> {
    Err(Stop::Malformed(why))
}

/// Reads the head of the first request alone.
pub(crate) fn read_head(stream: &[u8]) -> Option<Message> {
    head(stream).ok().map(|(message, _)| message)
}

fn head(stream: &[u8]) -> Result<(Message, usize), Stop> {
    let (line, at) = line(stream, 0)?;
    let (method, target, version) = request_line(line)?;
    let (fields, at) = fields(stream, at)?;
    let message = Message {
        method,
        target,
        version,
        fields,
        body: vec![],
        trailers: vec![],
    };
    Ok((message, at))
}

fn message(stream: &[u8]) -> Result<(Message, usize), Stop> {
    let (mut message, mut at) = head(stream)?;
    if message.values("host").len() != 1 {
        return malformed("not one Host");
    }
    let lengths = message.values("content-length");
    let encodings = message.values("transfer-encoding");
    match (
        lengths[..].iter().as_slice(),
        encodings[..].iter().as_slice(),
    ) {
        ([], []) => {}
        ([length], []) => {
            let length = decimal(length)?;
            let rest = &stream[at..];
            if (rest.len() as u64) < length {
                return Err(Stop::Incomplete);
            }
            let length = length as usize;
            message.body = rest[..length].to_vec();
            at += length;
        }
        ([], [encoding]) => {
            if message.version == 0 || !encoding.eq_ignore_ascii_case(b"chunked") {
                return malformed("a transfer encoding other than chunked");
            }
            let (body, trailers, after) = chunks(stream, at)?;
            message.body = body;
            message.trailers = trailers;
            at = after;
        }
        _ => return malformed("several lengths"),
    }
    Ok((message, at))
}

/// The line that begins at `at`, and where the next one begins.
fn line(stream: &[u8], at: usize) -> Result<(&[u8], usize), Stop> {
    let rest = &stream[at..];
    for (length, byte) in rest.iter().enumerate() {
        match byte {
            b'\r' => {
                return match rest.get(length + 1) {
                    Some(b'\n') => Ok((&rest[..length], at + length + 2)),
                    Some(_) => malformed("a carriage return alone"),
                    None => Err(Stop::Incomplete),
                };
            }
            b'\t' | 0x20..=0x7e | 0x80.. => {}
            _ => return malformed("a control character"),
        }
    }
    Err(Stop::Incomplete)
}

fn request_line(line: &[u8]) -> Result<(String, String, u8), Stop> {
    let Ok(text) = std::str::from_utf8(line) else {
        return malformed("a request line that is not ASCII");
    };
    let words: Vec<&str> = text.split(' ').collect();
    let [method, target, version] = words[..] else {
        return malformed("not three words in the request line");
    };
    if method.is_empty() || !method.bytes().all(is_token) {
        return malformed("the method");
    }
    if target.is_empty() || !target.bytes().all(|b| b.is_ascii_graphic() && b != b'#') {
        return malformed("the target");
    }
    let version = match version {
        "HTTP/1.1" => 1,
        "HTTP/1.0" => 0,
        _ => return malformed("the version"),
    };
    Ok((method.to_owned(), target.to_owned(), version))
}

type Fields = Vec<(String, Vec<u8>)>;

/// Fields up to the empty line.
fn fields(stream: &[u8], mut at: usize) -> Result<(Fields, usize), Stop> {
    let mut fields = Vec::new();
    loop {
        let (text, after) = line(stream, at)?;
        at = after;
        if text.is_empty() {
            return Ok((fields, at));
        }
        let Some(colon) = text.iter().position(|byte| *byte == b':') else {
            return malformed("a field without a colon");
        };
        let (name, value) = (&text[..colon], &text[colon + 1..]);
        if name.is_empty() || !name.iter().copied().all(is_token) {
            return malformed("a field's name");
        }
        let blank = |byte: &u8| matches!(byte, b' ' | b'\t');
        let start = value.iter().position(|b| !blank(b)).unwrap_or(value.len());
        let end = value
            .iter()
            .rposition(|b| !blank(b))
            .map_or(start, |at| at + 1);
        fields.push((
            String::from_utf8_lossy(name).into_owned(),
            value[start..end].to_vec(),
        ));
    }
}

fn chunks(stream: &[u8], mut at: usize) -> Result<(Vec<u8>, Fields, usize), Stop> {
    let mut body = Vec::new();
    loop {
        let (text, after) = line(stream, at)?;
        at = after;
        let digits = text
            .iter()
            .position(|byte| *byte == b';')
            .map_or(text, |end| &text[..end]);
        let size = match std::str::from_utf8(digits) {
            Ok(digits) if digits.bytes().all(|b| b.is_ascii_hexdigit()) => {
                u64::from_str_radix(digits, 16)
            }
            _ => return malformed("a chunk's size"),
        };
        let Ok(size) = size else {
            return malformed("a chunk's size");
        };
        if size == 0 {
            let (trailers, after) = fields(stream, at)?;
            return Ok((body, trailers, after));
        }
        let rest = &stream[at..];
        let Some(size) = usize::try_from(size).ok().filter(|size| *size < rest.len()) else {
            return Err(Stop::Incomplete);
        };
        match &rest[size..] {
            [b'\r', b'\n', ..] => {}
            [b'\r'] => return Err(Stop::Incomplete),
            _ => return malformed("a chunk's end"),
        }
        body.extend_from_slice(&rest[..size]);
        at += size + 2;
    }
}

fn decimal(digits: &[u8]) -> Result<u64, Stop> {
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return malformed("Content-Length");
    }
    String::from_utf8_lossy(digits)
        .parse()
        .or(malformed("Content-Length"))
}

fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

#[test]
fn the_second_opinion_is_strict() {
    let check = |text: &str, expected: &str| {
        let reading = match read(text.as_bytes()) {
            Reading::Request(message, used) => {
                format!(
                    "{} {} {:?} {used}",
                    message.method, message.target, message.body
                )
            }
            Reading::Incomplete => "incomplete".to_owned(),
            Reading::Malformed(why) => why.to_owned(),
        };
        assert_eq!(reading, expected, "{text:?}");
    };
    let chunked = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
    check("GET / HTTP/1.1\r\nHost: a\r\n\r\nGET", "GET / [] 27");
    check(
        "PUT /x HTTP/1.1\r\nHost: a\r\nContent-Length:2 \r\n\r\nhi",
        "PUT /x [104, 105] 49",
    );
    check(
        &format!("{chunked}1;a=b\r\nx\r\n0\r\nA: b\r\n\r\n"),
        "POST / [120] 77",
    );
    check("GET / HTTP/1.1\r\nHost: a\r\n", "incomplete");
    check(&format!("{chunked}2\r\nxy"), "incomplete");
    check("GET / HTTP/1.1\nHost: a\r\n\r\n", "a control character");
    check("GET / HTTP/1.1\r\nHost : a\r\n\r\n", "a field's name");
    check("GET / HTTP/1.1\r\n\r\n", "not one Host");
    check("GET / HTTP/1.2\r\nHost: a\r\n\r\n", "the version");
    check(&format!("{chunked}2\r\nxyz"), "a chunk's end");
    check(&format!("{chunked}0x1\r\n"), "a chunk's size");
    check(
        &chunked.replace("chunked", "Chunked, gzip"),
        "a transfer encoding other than chunked",
    );
    check(
        &chunked.replace("\r\n\r\n", "\r\nContent-Length: 1\r\n\r\nx"),
        "several lengths",
    );
}
