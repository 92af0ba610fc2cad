//! Records or lines on the way to a descriptor that takes them at its own pace.

use std::collections::VecDeque;

/// Memory that is kept once everything is written: more was for one large record.
const KEPT: usize = 256 << 10;

/// Bytes to write, and where each item among them ends, so that what is never written is counted.
#[derive(Debug, Default)]
pub(super) struct Backlog {
    bytes: Vec<u8>,
    /// How many of `bytes` are written.
    written: usize,
    /// The lengths of the items of which something is left.
    items: VecDeque<usize>,
    /// How many bytes of the first item are written.
    begun: usize,
}

impl Backlog {
    /// Adds one item, which `fill` appends to the bytes.
    pub(super) fn push(&mut self, fill: impl FnOnce(&mut Vec<u8>)) {
        let before = self.bytes.len();
        fill(&mut self.bytes);
        let len = self.bytes.len() - before;
        if len > 0 {
            self.items.push_back(len);
        }
    }

    /// Bytes left.
    pub(super) fn len(&self) -> usize {
        self.bytes.len() - self.written
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Items that are not written to their end.
    pub(super) fn items(&self) -> usize {
        self.items.len()
    }

    /// The next write would go on in the middle of an item.
    pub(super) fn is_inside_an_item(&self) -> bool {
        self.begun > 0
    }

    /// What is left.
    pub(super) fn left(&self) -> &[u8] {
        &self.bytes[self.written..]
    }

    /// The rest of the first item, and as many whole ones after it as fit into `most` bytes.
    pub(super) fn whole_items(&self, most: usize) -> &[u8] {
        let mut len = self.items.front().map_or(0, |first| first - self.begun);
        for item in self.items.iter().skip(1) {
            if len + item > most {
                break;
            }
            len += item;
        }
        &self.left()[..len]
    }

    /// Notes that `len` bytes were written.
    pub(super) fn wrote(&mut self, mut len: usize) {
        self.written += len;
        while let Some(first) = self.items.front() {
            let rest = first - self.begun;
            if len < rest {
                self.begun += len;
                break;
            }
            len -= rest;
            self.begun = 0;
            self.items.pop_front();
        }
        if self.written == self.bytes.len() {
            self.bytes.clear();
            self.written = 0;
            if self.bytes.capacity() > KEPT {
                self.bytes = Vec::new();
            }
        } else if self.written > KEPT / 2 && self.written > self.bytes.len() / 2 {
            self.bytes.drain(..self.written);
            self.written = 0;
        }
    }

    /// Gives up what is left: items and bytes.
    pub(super) fn give_up(&mut self) -> (u64, u64) {
        let lost = (self.items() as u64, self.len() as u64);
        *self = Self::default();
        lost
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_is_counted_in_whole_items_however_it_was_written() {
        let items: Vec<Vec<u8>> = (0..50_u8).map(|n| vec![n; usize::from(n) * 7 + 1]).collect();
        let all = items.concat();
        for step in [1, 2, 3, 7, 100, 1000] {
            let mut backlog = Backlog::default();
            items.iter().for_each(|item| backlog.push(|bytes| bytes.extend_from_slice(item)));
            let mut written = Vec::new();
            while !backlog.is_empty() {
                let ends = items.iter().scan(0, |sum, item| {
                    *sum += item.len();
                    Some(*sum)
                });
                let left = ends.clone().filter(|end| *end > written.len()).count();
                assert_eq!((backlog.items(), backlog.len()), (left, all.len() - written.len()));
                let at_an_end =
                    written.is_empty() || ends.into_iter().any(|end| end == written.len());
                assert_eq!(backlog.is_inside_an_item(), !at_an_end);
                let part = &backlog.left()[..step.min(backlog.len())];
                written.extend_from_slice(part);
                backlog.wrote(step.min(backlog.len()));
            }
            assert_eq!((written == all, backlog.items(), backlog.give_up()), (true, 0, (0, 0)));
        }
    }

    #[test]
    fn lines_are_written_whole_where_they_fit() {
        let mut backlog = Backlog::default();
        for line in ["one\n", "two\n", "a longer one\n", "four\n"] {
            backlog.push(|bytes| bytes.extend_from_slice(line.as_bytes()));
        }
        assert_eq!(backlog.whole_items(9), b"one\ntwo\n");
        backlog.wrote(2);
        assert_eq!(backlog.whole_items(6), b"e\ntwo\n");
        backlog.wrote(6);
        assert_eq!(backlog.whole_items(3), b"a longer one\n", "one is written, however long");
        assert_eq!(backlog.give_up(), (2, 18));
    }
}
