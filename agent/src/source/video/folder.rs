//! Films that appear in a folder: each that is finished becomes fragments, once, whatever ends the agent in between, and
//! is deleted once all of it is durable, where that is wanted. [`Shelf`] decides (pure), [`run`] reads. Never: what is in a
//! film.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, Read};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use protocol::time::{Mono, UnixMs};
use video::codec::tracks;
use video::container::Demuxer;
use video::cut::{Cut, Cutter};
use video::film::{Film, FilmError};
use video::fragment::Clock as Times;

use super::Parts;
use super::command::{HINT, Next, Running};
use super::feed::Feeder;
use crate::config::After;
use crate::source::file::identity::hash;

const PIECE_BYTES: usize = 256 << 10;
/// How often the folder is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Films of one folder that are known at the same time; others have their turn when these are gone.
const FILMS_MAX: usize = 10_000;

/// Which bytes a name stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Print {
    size: u64,
    modified_ns: i128,
}

/// How far a film was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Taken {
    Fragments(u64),
    Done,
    /// It can't be read to its end: it stays where it is.
    Failed,
}

#[derive(Debug, Clone, Copy)]
struct Known {
    print: Print,
    /// Since when it is as it is.
    since: Mono,
    taken: Taken,
}

fn cursor_text(print: Print, taken: Taken) -> String {
    let taken = match taken {
        Taken::Fragments(count) => count.to_string(),
        Taken::Done => "done".to_owned(),
        Taken::Failed => "failed".to_owned(),
    };
    format!("{} {} {taken}", print.size, print.modified_ns)
}

fn read_cursor(text: &str) -> Option<(Print, Taken)> {
    let mut words = text.split(' ');
    let print = Print { size: words.next()?.parse().ok()?, modified_ns: words.next()?.parse().ok()? };
    let taken = match words.next()? {
        "done" => Taken::Done,
        "failed" => Taken::Failed,
        count => Taken::Fragments(count.parse().ok()?),
    };
    Some((print, taken))
}

fn prefix(folder: &Path) -> String {
    format!("video:{}/", folder.display())
}

/// Whether a cursor is that of a film in this folder.
#[must_use]
pub fn is_cursor(id: &str, folder: &Path) -> bool {
    id.strip_prefix(&prefix(folder)).is_some_and(|name| !name.contains('/'))
}

/// Which films there are, and how far each was taken, by name.
#[derive(Debug, Default)]
struct Shelf {
    known: BTreeMap<String, Known>,
    /// Of the spool, for names that were not seen yet.
    remembered: BTreeMap<String, (Print, Taken)>,
}

impl Shelf {
    /// What is in the folder now. Returns the names that are not there any more.
    fn handle_list(&mut self, list: Vec<(String, Print)>, now: Mono) -> Vec<String> {
        let mut before = std::mem::take(&mut self.known);
        for (name, print) in list {
            let remembered = self.remembered.remove(&name);
            let known = before.remove(&name);
            let known = known.or_else(|| remembered.map(|(print, taken)| Known { print, since: now, taken }));
            let known = known.filter(|known| known.print == print);
            let fresh = Known { print, since: now, taken: Taken::Fragments(0) };
            self.known.insert(name, known.unwrap_or(fresh));
        }
        before.into_keys().chain(std::mem::take(&mut self.remembered).into_keys()).collect()
    }

    /// The film that was finished first, of those that are not taken yet.
    fn poll_next(&self, now: Mono, settled: Duration) -> Option<(String, Print, u64)> {
        let ready =
            |known: &&Known| matches!(known.taken, Taken::Fragments(_)) && now.since(known.since) >= settled;
        let films = self.known.iter().filter(|(_, known)| ready(known));
        let (name, known) = films.min_by_key(|(name, known)| (known.print.modified_ns, (*name).clone()))?;
        let Taken::Fragments(count) = known.taken else { return None };
        Some((name.clone(), known.print, count))
    }

    fn done(&self) -> Vec<String> {
        let done = self.known.iter().filter(|(_, known)| known.taken == Taken::Done);
        done.map(|(name, _)| name.clone()).collect()
    }

    fn handle_taken(&mut self, name: &str, taken: Taken) {
        if let Some(known) = self.known.get_mut(name) {
            known.taken = taken;
        }
    }
}

/// Why a film was not taken to its end.
enum End {
    /// The agent ends.
    Stopping,
    /// It can't be read now.
    Later(String),
    /// It is no film, or not all of one.
    Bad(String),
}

struct Folder {
    parts: Parts,
    path: std::path::PathBuf,
    feeder: Feeder,
    shelf: Shelf,
}

/// Works until the agent ends.
pub(super) fn run(parts: Parts) {
    let Some(path) = parts.settings.folder.clone() else { return };
    let mine = prefix(&path);
    let remembered = parts.cursors.iter().filter_map(|(id, text)| {
        let name = id.strip_prefix(&mine)?;
        Some((name.to_owned(), read_cursor(text)?))
    });
    let shelf = Shelf { remembered: remembered.collect(), known: BTreeMap::new() };
    let feeder = Feeder::new(&parts.hub, parts.source, &parts.stream);
    let mut folder = Folder { parts, path, feeder, shelf };
    while !folder.feeder.stopping() {
        folder.look();
        folder.feeder.wait(LOOK_EVERY);
    }
}

fn print_of(path: &Path) -> std::io::Result<Print> {
    let about = std::fs::metadata(path)?;
    let modified_ns = i128::from(about.mtime()) * 1_000_000_000 + i128::from(about.mtime_nsec());
    Ok(Print { size: about.len(), modified_ns })
}

impl Folder {
    fn id(&self, name: &str) -> String {
        format!("{}{name}", prefix(&self.path))
    }

    fn warn(&self, name: &str, why: &str) {
        let text = format!("{}: {why}", self.path.join(name).display());
        self.parts.log.warn(&format!("film {text}"), &text);
    }

    fn look(&mut self) {
        let list = match self.list() {
            Ok(list) => list,
            Err(error) => return self.warn("", &error.to_string()),
        };
        let now = self.parts.clock.now();
        // A folder whose films are deleted is on disk as it seems before any of them is forgotten.
        for name in self.shelf.handle_list(list, now) {
            if !self.feeder.remember((self.id(&name), None)) {
                return;
            }
        }
        if self.parts.settings.after == After::Delete {
            // What an earlier run has left.
            self.shelf.done().iter().for_each(|name| self.delete(name));
        }
        let settled = Duration::from_millis(self.parts.settings.settled_ms);
        while let Some((name, print, count)) = self.shelf.poll_next(self.parts.clock.now(), settled) {
            let taken = match self.take(&name, print, count) {
                Ok(()) => Taken::Done,
                Err(End::Stopping) => return,
                Err(End::Later(why)) => return self.warn(&name, &format!("{why}; tried again")),
                Err(End::Bad(why)) => {
                    let kept = "what was whole of it is kept, the film stays where it is";
                    self.warn(&name, &format!("{why}; {kept}"));
                    Taken::Failed
                }
            };
            self.shelf.handle_taken(&name, taken);
            if !self.feeder.remember((self.id(&name), Some(cursor_text(print, taken)))) {
                return;
            }
            if taken == Taken::Done && self.parts.settings.after == After::Delete {
                self.delete(&name);
            }
        }
    }

    fn list(&self) -> std::io::Result<Vec<(String, Print)>> {
        let pattern = glob::Pattern::new(&self.parts.settings.files).unwrap_or_default();
        let film = |entry: std::io::Result<std::fs::DirEntry>| {
            let entry = match entry {
                Ok(entry) => entry,
                Err(error) => return Some(Err(error)),
            };
            // A name that is no text can't be remembered.
            let name = entry.file_name().into_string().ok()?;
            let is_file = entry.file_type().is_ok_and(|kind| kind.is_file());
            let print = print_of(&entry.path()).ok().filter(|_| is_file && pattern.matches(&name))?;
            Some(Ok((name, print)))
        };
        at_most(std::fs::read_dir(&self.path)?.filter_map(film)).collect()
    }

    /// Takes what was not taken yet of a film.
    fn take(&mut self, name: &str, print: Print, skip: u64) -> Result<(), End> {
        let path = self.path.join(name);
        // The same film has the same fragments, whenever it is read.
        let run = hash(format!("{}{print:?}", path.display()).as_bytes());
        let (mut count, mut cuts) = (0, Vec::new());
        let id = self.id(name);
        if let Some(mut film) = self.whole(&path, print)? {
            let start = begin(print, film.length_ms());
            let mut cutter = Cutter::new(run, start, Times::Producer);
            loop {
                let more = film.next(&mut cutter, &mut cuts).map_err(End::from);
                if more.is_err() {
                    cuts.extend(cutter.flush());
                }
                hand_on(&mut self.feeder, &mut cuts, &id, print, skip, &mut count)?;
                if !more? {
                    return unchanged(&path, print);
                }
            }
        }
        let start = self.start(&path, print)?;
        let cutter = Cutter::new(run, start, Times::Producer);
        let mut demuxer = Demuxer::new(cutter).with_rate(self.parts.settings.rate());
        let read = each_piece(&self.parts, &path, &mut |bytes| {
            let pushed = demuxer.push(bytes, &mut cuts);
            hand_on(&mut self.feeder, &mut cuts, &id, print, skip, &mut count)?;
            pushed.map_err(|error| End::Bad(format!("{error}; {HINT}")))
        });
        let finished = demuxer.finish(&mut cuts).map_err(|error| End::Bad(error.to_string()));
        if matches!(read, Err(End::Stopping | End::Later(_))) {
            return read;
        }
        hand_on(&mut self.feeder, &mut cuts, &id, print, skip, &mut count)?;
        read.and(finished)?;
        unchanged(&path, print)
    }

    /// A film that is read as a whole; `None` where it is fragmented, or a command reads it.
    fn whole(&self, path: &Path, print: Print) -> Result<Option<Film<BufReader<File>>>, End> {
        if !self.parts.settings.command.is_empty() {
            return Ok(None);
        }
        let file = File::open(path).map_err(|error| End::Later(error.to_string()))?;
        Film::open(BufReader::new(file), print.size).map_err(End::from)
    }

    /// When its first frame was made.
    fn start(&self, path: &Path, print: Print) -> Result<UnixMs, End> {
        let cutter = Cutter::new(0, UnixMs(0), Times::Producer);
        let mut demuxer = Demuxer::new(cutter).with_rate(self.parts.settings.rate());
        let (mut cuts, mut length_ms) = (Vec::new(), 0);
        let read = each_piece(&self.parts, path, &mut |bytes| {
            let pushed = demuxer.push(bytes, &mut cuts);
            cuts.drain(..).for_each(|cut| length_ms = length_ms.max(end_ms(&cut)));
            // What is wrong is told when it is taken.
            pushed.map_err(|error| End::Bad(error.to_string()))
        });
        if let Err(end @ (End::Stopping | End::Later(_))) = read {
            return Err(end);
        }
        let _ = demuxer.finish(&mut cuts);
        cuts.drain(..).for_each(|cut| length_ms = length_ms.max(end_ms(&cut)));
        Ok(begin(print, length_ms))
    }

    /// Deletes a film of which everything is durable.
    fn delete(&mut self, name: &str) {
        if !self.feeder.all_durable() {
            return;
        }
        let gone = std::fs::remove_file(self.path.join(name));
        // Or a power cut could bring it back after it was forgotten, and it would be taken again.
        if let Err(error) = gone.and_then(|()| File::open(&self.path)?.sync_all()) {
            self.warn(name, &format!("it can't be deleted: {error}"));
        }
    }
}

/// As many films as may be known; whatever else is in the folder does not count.
fn at_most<T>(films: impl Iterator<Item = T>) -> impl Iterator<Item = T> {
    films.take(FILMS_MAX)
}

fn unchanged(path: &Path, print: Print) -> Result<(), End> {
    match print_of(path) {
        Ok(now) if now != print => Err(End::Later("it changed while it was read".to_owned())),
        _ => Ok(()),
    }
}

impl From<FilmError> for End {
    fn from(error: FilmError) -> End {
        match error {
            FilmError::Read(error) => End::Later(error.to_string()),
            FilmError::Video(error) => End::Bad(error.to_string()),
        }
    }
}

/// When a film of this length began: it ended when it was written last.
fn begin(print: Print, length_ms: u64) -> UnixMs {
    let modified_ms = u64::try_from(print.modified_ns / 1_000_000).unwrap_or(0);
    UnixMs(modified_ms.saturating_sub(length_ms))
}

/// When a fragment of a film that begins at 0 ends.
fn end_ms(cut: &Cut) -> u64 {
    let tracks = tracks(&cut.fragment.config).unwrap_or_default();
    let timescale = tracks.first().map_or(1, |track| track.timescale).max(1);
    cut.fragment.producer_time.0 + cut.fragment.duration(0) * 1000 / u64::from(timescale)
}

fn hand_on(
    feeder: &mut Feeder,
    cuts: &mut Vec<Cut>,
    id: &str,
    print: Print,
    skip: u64,
    count: &mut u64,
) -> Result<(), End> {
    for cut in cuts.drain(..) {
        *count += 1;
        let cursor = (id.to_owned(), Some(cursor_text(print, Taken::Fragments(*count))));
        if *count > skip && !feeder.fragment(&cut, Some(cursor)) {
            return Err(End::Stopping);
        }
    }
    Ok(())
}

/// The bytes of a film: as they are, or as the command makes them.
fn each_piece(parts: &Parts, path: &Path, take: &mut dyn FnMut(&[u8]) -> Result<(), End>) -> Result<(), End> {
    let later = |error: std::io::Error| End::Later(error.to_string());
    let mut buffer = vec![0; PIECE_BYTES];
    if parts.settings.command.is_empty() {
        let mut file = File::open(path).map_err(later)?;
        loop {
            match file.read(&mut buffer).map_err(later)? {
                _ if parts.hub.stopping() => return Err(End::Stopping),
                0 => return Ok(()),
                count => take(&buffer[..count])?,
            }
        }
    }
    let name = path.display().to_string();
    let words: Vec<String> =
        parts.settings.command.iter().map(|word| word.replace("{file}", &name)).collect();
    let silence = Duration::from_secs(parts.settings.silence_s);
    let mut running = Running::start(&words, parts.clock, silence).map_err(End::Later)?;
    let mut since = parts.clock.now();
    loop {
        match running.next(&mut buffer, since) {
            _ if parts.hub.stopping() => return Err(End::Stopping),
            Next::Nothing => {}
            Next::End => return Ok(()),
            Next::Failed(why) => return Err(End::Bad(format!("{}: {why}", words[0]))),
            Next::Bytes(bytes) => {
                take(bytes)?;
                since = parts.clock.now();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SETTLED: Duration = Duration::from_secs(2);

    fn film(name: &str, size: u64, modified_ns: i128) -> (String, Print) {
        (name.to_owned(), Print { size, modified_ns })
    }

    #[test]
    fn films_are_taken_once_they_are_left_alone_the_oldest_first() {
        let mut shelf = Shelf::default();
        let at = Mono::from_millis;
        let names = |shelf: &Shelf, now| shelf.poll_next(now, SETTLED).map(|(name, _, count)| (name, count));
        assert!(shelf.handle_list(vec![film("a", 1, 20), film("b", 1, 10)], at(0)).is_empty());
        assert_eq!(names(&shelf, at(1999)), None);
        // One that grows is not finished.
        shelf.handle_list(vec![film("a", 1, 20), film("b", 2, 30)], at(1000));
        assert_eq!(names(&shelf, at(2000)), Some(("a".to_owned(), 0)));
        shelf.handle_taken("a", Taken::Done);
        assert_eq!(names(&shelf, at(2000)), None);
        assert_eq!(names(&shelf, at(3000)), Some(("b".to_owned(), 0)));
        assert_eq!(shelf.handle_list(vec![film("b", 2, 30)], at(4000)), ["a"]);
        // The same name, another film.
        shelf.handle_taken("b", Taken::Failed);
        shelf.handle_list(vec![film("b", 3, 40)], at(5000));
        assert_eq!(names(&shelf, at(7000)), Some(("b".to_owned(), 0)));
    }

    #[test]
    fn after_a_start_a_film_goes_on_where_the_spool_says_and_what_is_gone_is_forgotten() {
        let print = Print { size: 5, modified_ns: -7 };
        for taken in [Taken::Fragments(3), Taken::Done, Taken::Failed] {
            assert_eq!(read_cursor(&cursor_text(print, taken)), Some((print, taken)));
        }
        assert_eq!(read_cursor("5 x done"), None);
        let remembered = [("a", Taken::Fragments(3)), ("b", Taken::Done), ("c", Taken::Done)];
        let remembered = remembered.map(|(name, taken)| (name.to_owned(), (print, taken)));
        let mut shelf = Shelf { remembered: remembered.into(), known: BTreeMap::new() };
        let gone = shelf.handle_list(vec![film("a", 5, -7), film("b", 5, -7)], Mono::ZERO);
        assert_eq!(gone, ["c"]);
        let next = shelf.poll_next(Mono::from_millis(2000), SETTLED);
        assert_eq!(next, Some(("a".to_owned(), print, 3)));
        shelf.handle_taken("a", Taken::Done);
        assert_eq!(shelf.poll_next(Mono::from_millis(9000), SETTLED), None);
    }

    #[test]
    fn cursors_belong_to_one_folder() {
        assert!(is_cursor("video:/films/a.mp4", Path::new("/films")));
        assert!(!is_cursor("video:/films/deep/a.mp4", Path::new("/films")));
        assert!(!is_cursor("/films/a.mp4", Path::new("/films")));
    }

    /// Reaches `FILMS_MAX`.
    #[test]
    fn no_more_films_of_a_folder_are_known_than_may_be() {
        assert_eq!(at_most(0..FILMS_MAX).count(), FILMS_MAX);
        assert_eq!(at_most(0..=FILMS_MAX).last(), Some(FILMS_MAX - 1));
    }
}
