//! Walks the frames of a segment file, and finds the next good one after a bad place.

use std::io;

use bytes::Bytes;

use crate::disk::File;
use crate::frame::{FIXED_BYTES, Header, Why, aligned};
use crate::limits::ALIGN_BYTES;

/// Bytes read at once when bodies are read too.
const WINDOW_BYTES: usize = 1 << 20;
/// Bytes read at once when only headers are.
const PEEK_BYTES: usize = 16 << 10;

/// Reads `len` bytes at `position`, fewer only where the file ends, into memory aligned for
/// decoding in place.
pub(crate) fn read_aligned(file: &dyn File, position: u64, len: usize) -> io::Result<Bytes> {
    let mut memory = vec![0; len + ALIGN_BYTES];
    let skip = memory.as_ptr().align_offset(ALIGN_BYTES).min(ALIGN_BYTES);
    let mut done = 0;
    while done < len {
        match file.read_at(position + done as u64, &mut memory[skip + done..skip + len]) {
            Ok(0) => break,
            Ok(n) => done += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    // The vector is not shrunk, so `Bytes` takes it without moving it.
    Ok(Bytes::from(memory).slice(skip..skip + done))
}

/// What stands at a position.
#[derive(Debug)]
pub(crate) enum Found {
    /// A frame whose checksums are right (the body's only if bodies are read).
    Frame(Header),
    /// Not a frame.
    Bad(Why),
    /// The end of what is scanned.
    End,
}

/// Goes through a segment file from frame to frame.
pub(crate) struct Scan<'a> {
    file: &'a dyn File,
    salt: u32,
    /// Where the next frame should begin.
    pub position: u64,
    limit: u64,
    bodies: bool,
    /// Bytes read at once.
    ahead: usize,
    window: Bytes,
    window_at: u64,
}

impl<'a> Scan<'a> {
    /// From `position` up to `limit`; checks bodies as well if `bodies`.
    pub fn new(file: &'a dyn File, salt: u32, position: u64, limit: u64, bodies: bool) -> Scan<'a> {
        Scan {
            file,
            salt,
            position,
            limit,
            bodies,
            ahead: if bodies { WINDOW_BYTES } else { PEEK_BYTES },
            window: Bytes::new(),
            window_at: 0,
        }
    }

    /// Reads `bytes` at once from now on.
    pub fn read_ahead(mut self, bytes: usize) -> Scan<'a> {
        self.ahead = bytes;
        self
    }

    /// Looks at what is at the current position and steps over it if it is a frame.
    pub fn next(&mut self) -> io::Result<Found> {
        let found = self.look(self.position)?;
        if let Found::Frame(header) = &found {
            self.position += header.frame_len();
        }
        Ok(found)
    }

    /// The body of the frame just stepped over, checked.
    pub fn body(&mut self, header: &Header) -> io::Result<Result<Bytes, Why>> {
        let from = self.position - header.frame_len() + header.header_len as u64;
        let padded = self.bytes(from, aligned(header.body_len))?;
        Ok(header
            .check_body(&padded)
            .map(|()| padded.slice(..header.body_len)))
    }

    /// Moves to the next good frame at or after the current position; `false` if there is none.
    pub fn resync(&mut self) -> io::Result<bool> {
        let mut at = self.position;
        while at + FIXED_BYTES as u64 <= self.limit {
            let chunk = self.bytes(at, WINDOW_BYTES)?;
            let mut candidate = None;
            for step in (0..chunk.len()).step_by(ALIGN_BYTES) {
                let rest = &chunk[step..];
                if Header::announced_len(rest).is_ok() {
                    candidate = Some(step);
                    break;
                }
            }
            let Some(step) = candidate else {
                // The last bytes may be the first of a header that the next chunk completes.
                at += (chunk.len() / ALIGN_BYTES).max(1) as u64 * ALIGN_BYTES as u64;
                continue;
            };
            at += step as u64;
            if matches!(self.look_whole(at)?, Found::Frame(_)) {
                self.position = at;
                return Ok(true);
            }
            at += ALIGN_BYTES as u64;
        }
        Ok(false)
    }

    fn look(&mut self, at: u64) -> io::Result<Found> {
        let bodies = self.bodies;
        self.look_with(at, bodies)
    }

    fn look_whole(&mut self, at: u64) -> io::Result<Found> {
        self.look_with(at, true)
    }

    fn look_with(&mut self, at: u64, body: bool) -> io::Result<Found> {
        if at >= self.limit {
            return Ok(Found::End);
        }
        let fixed = self.bytes(at, FIXED_BYTES)?;
        let header_len = match Header::announced_len(&fixed) {
            Ok(len) => len,
            Err(why) => return Ok(Found::Bad(why)),
        };
        let header = match Header::decode(&self.bytes(at, header_len)?) {
            Ok(header) => header,
            Err(why) => return Ok(Found::Bad(why)),
        };
        if header.salt != self.salt {
            return Ok(Found::Bad("a frame of another segment stands here"));
        }
        if at + header.frame_len() > self.limit {
            return Ok(Found::Bad("the file ends within a frame's body"));
        }
        if body {
            let padded = self.bytes(at + header_len as u64, aligned(header.body_len))?;
            if let Err(why) = header.check_body(&padded) {
                return Ok(Found::Bad(why));
            }
        }
        Ok(Found::Frame(header))
    }

    /// `len` bytes at `at`, fewer where the scan ends.
    fn bytes(&mut self, at: u64, len: usize) -> io::Result<Bytes> {
        let len = len.min(self.limit.saturating_sub(at).min(usize::MAX as u64) as usize);
        let within = at.checked_sub(self.window_at).map(|skip| skip as usize);
        if let Some(skip) = within
            && skip + len <= self.window.len()
        {
            return Ok(self.window.slice(skip..skip + len));
        }
        let want = len
            .max(self.ahead)
            .min((self.limit - at.min(self.limit)) as usize);
        self.window = read_aligned(self.file, at, want)?;
        self.window_at = at;
        Ok(self.window.slice(..len.min(self.window.len())))
    }
}
