//! Writing a sealed segment anew with fewer, larger frames.

use std::io::{self, IoSlice};
use std::sync::Arc;

use crate::disk::File;
use crate::disk::write_all;
use crate::error::{LogError, Result};
use crate::frame::{
    FIXED_BYTES, Frame, Header, Kind, SegmentHeader, header_len, no_producers, padding,
};
use crate::index::{Index, load, write_whole};
use crate::limits::{BODY_BYTES_MAX, PRODUCERS_PER_FRAME_MAX};
use crate::partition::{Merged, Partition, Rewritten};
use crate::scan::{Found, Scan};
use crate::segment::{Segment, index_path};

impl Partition {
    /// Writes the sealed segment that begins at `base` anew: `merge` gets runs of neighbouring
    /// frames (together at most `run_bytes_max`, two frames at least) and answers what to write in
    /// their place, or `None` to keep them as they are. Offsets do not change. Crash-safe: the new
    /// file replaces the old one by a rename once it is synced. Readers are not disturbed; `merge`
    /// itself must not read this partition.
    ///
    /// # Errors
    /// When there is no such sealed segment, when it is damaged (nothing is changed then), or when
    /// the disk fails.
    pub fn rewrite(
        &self,
        base: u64,
        run_bytes_max: usize,
        merge: &mut dyn FnMut(&[Frame]) -> Option<Merged>,
    ) -> Result<Rewritten> {
        let inner = &self.inner;
        let _held = inner.maintenance.lock();
        let found = inner
            .segments
            .read()
            .iter()
            .find(|s| s.base == base)
            .cloned();
        let Some(old) = found.filter(|s| s.is_sealed()) else {
            let why = "there is no such sealed segment";
            return Err(LogError::Refused { why });
        };
        let index = old.with_index(&inner.files, Index::clone)?;
        let disk = &*inner.files.disk;
        let file = inner.files.open(&old)?;
        let temporary = old.path.with_extension("new");
        let failed = |e| LogError::io("cannot write anew", &old.path, e);
        match disk.remove(&temporary) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(failed(e)),
            _ => {}
        }
        let salt = disk.random() as u32;
        let new = disk.create(&temporary).map_err(failed)?;
        let mut output = Output {
            file: new,
            index: Index::new(salt, base, index.created_micros, 0),
        };
        output.index.last_micros = index.last_micros;
        let done = output.head().map_err(failed).and_then(|()| {
            copy(
                self,
                &old,
                &index,
                &*file,
                run_bytes_max,
                merge,
                &mut output,
            )
        });
        let frames = match done {
            Ok(frames) => frames,
            Err(e) => {
                let _ = disk.remove(&temporary);
                return Err(e);
            }
        };
        let after = output.index.len;
        let replaced = output
            .file
            .sync()
            .and_then(|()| disk.rename(&temporary, &old.path));
        replaced.map_err(failed)?;
        // Whether the name is durable or not, from now on readers find the new file.
        let named = disk.sync_dir(&inner.dir);
        // The producers of the old index file still hold, if it covers the segment to its end.
        let producers = load(disk, &index_path(&old.path))
            .filter(|(index, _)| index.end == old.end())
            .and_then(|(_, table)| table);
        let bytes = output.index.encode(producers.as_deref());
        let _ = write_whole(disk, &index_path(&old.path), &bytes, false);
        inner.files.forget(&old);
        let new = Segment::sealed(old.path.clone(), base, old.end(), after, Some(output.index));
        let mut segments = inner.segments.write();
        if let Some(place) = segments.iter_mut().find(|s| Arc::ptr_eq(s, &old)) {
            *place = Arc::new(new);
        }
        drop(segments);
        named.map_err(failed)?;
        Ok(Rewritten {
            frames,
            bytes: (old.len(), after),
        })
    }
}

/// Copies the frames of a segment, merged where `merge` wants; counts them before and after.
fn copy(
    partition: &Partition,
    old: &Segment,
    index: &Index,
    file: &dyn File,
    run_bytes_max: usize,
    merge: &mut dyn FnMut(&[Frame]) -> Option<Merged>,
    output: &mut Output,
) -> Result<(u64, u64)> {
    let failed = |e| LogError::io("cannot write anew", &old.path, e);
    let read = |e| LogError::io("cannot read", &old.path, e);
    let damaged = |position, from, why| LogError::Damaged {
        file: old.path.clone(),
        position,
        from,
        resume: old.end(),
        why,
    };
    let end = old.end().min(partition.end());
    let mut scan = Scan::new(file, index.salt, FIXED_BYTES as u64, old.len(), true);
    let mut run: Vec<Frame> = Vec::new();
    let (mut run_bytes, mut before, mut after, mut next) = (0, 0, 0, old.base);
    while next < end {
        let at = scan.position;
        let header = match scan.next().map_err(read)? {
            Found::Frame(header) => header,
            Found::Bad(why) => return Err(damaged(at, next, why)),
            Found::End => return Err(damaged(at, next, "the file ends too early")),
        };
        let body = match scan.body(&header).map_err(read)? {
            Ok(body) => body,
            Err(why) => return Err(damaged(at, next, why)),
        };
        if header.kind == Kind::Producers {
            output
                .frame(Kind::Producers, &Frame::new(header, body, None))
                .map_err(failed)?;
            continue;
        }
        if header.base != next {
            return Err(damaged(at, next, "frames are missing here"));
        }
        next = header.end();
        before += 1;
        if run_bytes + body.len() > run_bytes_max {
            after += output.run(&mut run, merge).map_err(failed)?;
            run_bytes = 0;
        }
        run_bytes += body.len();
        run.push(Frame::new(header, body, None));
    }
    after += output.run(&mut run, merge).map_err(failed)?;
    Ok((before, after))
}

struct Output {
    file: Arc<dyn File>,
    index: Index,
}

impl Output {
    fn head(&mut self) -> io::Result<()> {
        let head = SegmentHeader {
            salt: self.index.salt,
            base: self.index.base,
            created_micros: self.index.created_micros,
        };
        write_all(&*self.file, 0, &mut [IoSlice::new(&head.encode())])?;
        self.index.len = FIXED_BYTES as u64;
        Ok(())
    }

    /// Writes a run of frames, merged if `merge` wants; answers how many were written.
    fn run(
        &mut self,
        run: &mut Vec<Frame>,
        merge: &mut dyn FnMut(&[Frame]) -> Option<Merged>,
    ) -> io::Result<u64> {
        let frames = std::mem::take(run);
        let rows: u64 = frames.iter().map(|f| u64::from(f.count)).sum();
        if frames.len() > 1
            && let Ok(count) = u32::try_from(rows)
            && let Some(producers) = producers_of(&frames)
            && let Some(merged) = merge(&frames)
            && merged.body.len() <= BODY_BYTES_MAX
        {
            let header = Header {
                kind: Kind::Rows,
                body_crc: 0,
                body_len: merged.body.len(),
                header_len: header_len(&producers),
                base: frames[0].base,
                count,
                attributes: merged.attributes,
                min_time: frames.iter().map(|f| f.min_time).min().unwrap_or(0),
                max_time: frames.iter().map(|f| f.max_time).max().unwrap_or(0),
                durable: 0,
                salt: 0,
                producers,
            };
            self.frame(Kind::Rows, &Frame::new(header, merged.body, None))?;
            return Ok(1);
        }
        for frame in &frames {
            self.frame(Kind::Rows, frame)?;
        }
        Ok(frames.len() as u64)
    }

    fn frame(&mut self, kind: Kind, frame: &Frame) -> io::Result<()> {
        let header = Header {
            kind,
            body_crc: crc32c::crc32c(&frame.body),
            body_len: frame.body.len(),
            header_len: header_len(&frame.producers),
            base: frame.base,
            count: frame.count,
            attributes: frame.attributes,
            min_time: frame.min_time,
            max_time: frame.max_time,
            durable: self.index.len,
            salt: self.index.salt,
            producers: frame.producers.clone(),
        };
        let mut head = Vec::with_capacity(header.header_len);
        header.encode(&mut head);
        let position = self.index.len;
        let mut parts = [
            IoSlice::new(&head),
            IoSlice::new(&frame.body),
            IoSlice::new(padding(frame.body.len())),
        ];
        write_all(&*self.file, position, &mut parts)?;
        match kind {
            Kind::Rows => self.index.add(&header, position),
            Kind::Producers => self.index.len = position + header.frame_len(),
        }
        Ok(())
    }
}

/// The last position of each producer of these frames; `None` if they are too many for one.
fn producers_of(frames: &[Frame]) -> Option<crate::frame::Producers> {
    let mut all: Vec<(Arc<str>, u64)> = Vec::new();
    let mut places = std::collections::HashMap::new();
    for (id, position) in frames.iter().flat_map(|f| f.producers.iter()) {
        let place = *places.entry(id.clone()).or_insert_with(|| {
            all.push((id.clone(), 0));
            all.len() - 1
        });
        all[place].1 = all[place].1.max(*position);
    }
    match all.len() {
        0 => Some(no_producers()),
        1..=PRODUCERS_PER_FRAME_MAX => Some(all.into()),
        _ => None,
    }
}
