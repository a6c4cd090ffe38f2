//! One SQLite file of a rosbag2 bag (`.db3`), in the versions 1 to 4 of its tables.
//!
//! The file is opened as immutable: nothing is written to it or beside it. Its tables are input like its rows; a view or a computed
//! column could hold any query, so only plain tables are read.

use std::{
    collections::{BTreeMap, VecDeque},
    fs::File,
    io::Read,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};

use bytes::Bytes;
use rusqlite::{Connection, MAIN_DB, OpenFlags, config::DbConfig, limits::Limit};

use super::{definitions::definition, error::ReplayError, mcap_file::Channel};

const MAGIC: &[u8; 16] = b"SQLite format 3\0";
/// Length of the file header.
const HEADER: usize = 100;
/// Rows whose places are looked up at once: 400 kB.
const LOOKUP: usize = 16_384;
/// Bytes of message data that are read at once.
const READ: usize = 4 << 20;

pub(super) struct SqliteFile {
    /// As the metadata names it, for messages.
    path: PathBuf,
    /// Where the database is.
    stored: PathBuf,
    /// Whether pages may be missing at the end.
    cut_off: bool,
    pub channels: BTreeMap<i64, Channel>,
    /// Messages of each topic.
    pub counts: BTreeMap<i64, u64>,
    /// Log times of the first and last message.
    pub range: Option<(u64, u64)>,
}

pub(super) struct RowMessage {
    pub row: i64,
    pub topic: i64,
    pub log_time: u64,
    pub data: Bytes,
}

impl SqliteFile {
    /// Opens a file that may be damaged: it has the rows, in the order of their times, in front of the first damage that can be seen,
    /// which is given too. `path` is the name in errors.
    pub fn open_salvaging(path: &Path, stored: &Path) -> Result<(Self, Option<ReplayError>), ReplayError> {
        let mut damage = check_header(path, stored)?;
        if damage.is_none() {
            damage = ["-wal", "-journal"].iter().find_map(|suffix| {
                let mut journal = stored.as_os_str().to_os_string();
                journal.push(suffix);
                let journal = PathBuf::from(journal);
                let waiting = journal.metadata().is_ok_and(|file| file.len() > 0);
                waiting.then_some(ReplayError::Journal(journal))
            });
        }
        let cut_off = matches!(damage, Some(ReplayError::Truncated { .. }));
        let (channels, counts) = (BTreeMap::new(), BTreeMap::new());
        let mut file = Self { path: path.into(), stored: stored.into(), cut_off, channels, counts, range: None };
        match file.read_tables() {
            Ok(survey) => Ok((file, damage.or(survey))),
            // The damage explains what is missing.
            Err(error) => Err(damage.unwrap_or(error)),
        }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The messages in the order of their times; equal times in the order of their rows.
    pub fn rows(&self) -> Result<Rows, ReplayError> {
        let left = self.counts.values().sum();
        Ok(Rows {
            places: Places::new(self.connect()?, &self.path),
            ready: VecDeque::new(),
            left,
            size: self.size()?,
            damage: None,
        })
    }

    fn size(&self) -> Result<u64, ReplayError> {
        self.stored.metadata().map(|file| file.len()).map_err(|source| ReplayError::Io { path: self.path.clone(), source })
    }

    fn not_a_bag(&self, error: impl ToString) -> ReplayError {
        ReplayError::Database { path: self.path.clone(), reason: error.to_string() }
    }

    fn connect(&self) -> Result<Connection, ReplayError> {
        let size = self.size()?;
        let connect = || -> rusqlite::Result<Connection> {
            let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI | OpenFlags::SQLITE_OPEN_NO_MUTEX;
            let connection = Connection::open_with_flags(immutable(&self.stored), flags)?;
            connection.set_db_config(DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false)?;
            // No value can be larger than the file that holds it.
            connection.set_limit(Limit::SQLITE_LIMIT_LENGTH, i32::try_from(size).unwrap_or(i32::MAX))?;
            // Without this SQLite refuses to read anything of a file that lacks pages.
            connection.pragma_update(None, "writable_schema", self.cut_off)?;
            connection.pragma_update(None, "cell_size_check", true)?;
            Ok(connection)
        };
        connect().map_err(|error| self.not_a_bag(error))
    }

    /// Reads the topics and counts the messages of each up to the first damage, which is given.
    fn read_tables(&mut self) -> Result<Option<ReplayError>, ReplayError> {
        let connection = self.connect()?;
        self.channels = read_topics(&connection).map_err(|error| self.not_a_bag(error))?;
        check_plain(&connection, "messages", &["id", "topic_id", "timestamp", "data"]).map_err(|error| self.not_a_bag(error))?;
        let mut places = Places::new(connection, &self.path);
        loop {
            let place = match places.next() {
                Ok(Some(place)) if self.channels.contains_key(&place.topic) => place,
                Ok(Some(Place { row, topic, .. })) => {
                    let reason = format!("it refers to topic {topic}, which is not in the table of topics");
                    return Ok(Some(ReplayError::Row { path: self.path.clone(), row, reason }));
                }
                Ok(None) => return Ok(None),
                Err(damage) => return Ok(Some(damage)),
            };
            *self.counts.entry(place.topic).or_default() += 1;
            let (start, _) = self.range.unwrap_or((place.log_time, place.log_time));
            self.range = Some((start, place.log_time));
        }
    }
}

/// Looks whether this is an SQLite file with all its pages; those at the end may be missing.
fn check_header(path: &Path, stored: &Path) -> Result<Option<ReplayError>, ReplayError> {
    let io = |source| ReplayError::Io { path: path.into(), source };
    let file = File::open(stored).map_err(io)?;
    let size = file.metadata().map_err(io)?.len();
    let mut header = Vec::new();
    file.take(HEADER as u64).read_to_end(&mut header).map_err(io)?;
    let truncated = |offset| ReplayError::Truncated { path: path.into(), record: "database", offset };
    let Some(header) = header.first_chunk::<HEADER>() else { return Err(truncated(size)) };
    if header[..16] != *MAGIC {
        let reason = "they are not those of an SQLite database".into();
        return Err(ReplayError::Corrupt { path: path.into(), record: "magic bytes", offset: 0, reason });
    }
    let word = |at: usize| u64::from(u32::from_be_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]));
    // 65536 does not fit into the field and is written as 1.
    let page = match u64::from(u16::from_be_bytes([header[16], header[17]])) {
        1 => 65_536,
        page => page,
    };
    // The number of pages counts only when the same change wrote it (https://www.sqlite.org/fileformat2.html, section 1.3.8).
    let (pages, changes, valid_for) = (word(28), word(24), word(92));
    Ok((changes == valid_for && pages * page > size).then(|| truncated(size)))
}

/// The URI of a file that nobody changes.
fn immutable(path: &Path) -> String {
    let mut uri = String::from("file:");
    for &byte in path.as_os_str().as_bytes() {
        match byte {
            b'/' | b'.' | b'-' | b'_' | b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z' => uri.push(byte.into()),
            _ => uri.push_str(&format!("%{byte:02X}")),
        }
    }
    uri + "?immutable=1"
}

type AnyError = Box<dyn std::error::Error>;

/// Names of a table's columns, which must be stored columns of a plain table.
fn columns(connection: &Connection, table: &str) -> Result<Vec<String>, AnyError> {
    let mut kinds = connection.prepare("SELECT type FROM pragma_table_list WHERE schema = 'main' AND name = ?")?;
    match kinds.query([table])?.next()?.map(|row| row.get::<_, String>(0)).transpose()?.as_deref() {
        Some("table") => {}
        Some(kind) => return Err(format!("{table} is a {kind} and not a table").into()),
        None => return Ok(Vec::new()),
    }
    let mut names = connection.prepare("SELECT name FROM pragma_table_xinfo(?) WHERE hidden = 0")?;
    Ok(names.query_map([table], |row| row.get(0))?.collect::<Result<_, _>>()?)
}

fn check_plain(connection: &Connection, table: &str, needed: &[&str]) -> Result<Vec<String>, AnyError> {
    let columns = columns(connection, table)?;
    match needed.iter().find(|needed| !columns.iter().any(|column| column == *needed)) {
        Some(missing) => Err(format!("it has no table {table} with the column {missing}").into()),
        None => Ok(columns),
    }
}

fn read_topics(connection: &Connection) -> Result<BTreeMap<i64, Channel>, AnyError> {
    let known = check_plain(connection, "topics", &["id", "name", "type", "serialization_format"])?;
    let has_qos = known.iter().any(|column| column == "offered_qos_profiles");
    let qos = if has_qos { "offered_qos_profiles" } else { "NULL" };
    let mut schemas = BTreeMap::<String, String>::new();
    if columns(connection, "message_definitions")?.iter().any(|column| column == "encoded_message_definition") {
        let query = "SELECT topic_type, encoded_message_definition FROM message_definitions WHERE encoding = 'ros2msg'";
        let mut statement = connection.prepare(query)?;
        for row in statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))? {
            schemas.extend([row?]);
        }
    }
    let mut statement = connection.prepare(&format!("SELECT id, name, type, serialization_format, {qos} FROM topics"))?;
    let topics = statement.query_map([], |row| {
        let type_name: String = row.get(2)?;
        // Older tables have no definitions. Topics of types that nobody here knows can still be counted and passed on.
        let schema = schemas.get(&type_name).cloned().or_else(|| definition(&type_name).ok()).unwrap_or_default();
        let (topic, encoding, offered_qos_profiles) = (row.get(1)?, row.get(3)?, row.get(4)?);
        Ok((row.get(0)?, Channel { topic, encoding, type_name, schema_encoding: "ros2msg".into(), schema, offered_qos_profiles }))
    })?;
    Ok(topics.collect::<Result<_, _>>()?)
}

/// A message's row without its data.
struct Place {
    row: i64,
    topic: i64,
    log_time: u64,
}

/// The rows in the order of their times, looked up piece by piece.
struct Places {
    connection: Connection,
    path: PathBuf,
    found: VecDeque<Place>,
    /// Time and row of the last one that was looked up.
    last: Option<(i64, i64)>,
    ended: bool,
    damage: Option<ReplayError>,
}

impl Places {
    fn new(connection: Connection, path: &Path) -> Self {
        Self { connection, path: path.into(), found: VecDeque::new(), last: None, ended: false, damage: None }
    }

    fn next(&mut self) -> Result<Option<Place>, ReplayError> {
        if self.found.is_empty() && !self.ended {
            match self.look_up() {
                Ok(rows) => self.ended = rows < LOOKUP,
                Err(error) => {
                    self.ended = true;
                    let (_, row) = self.last.unwrap_or_default();
                    let reason = format!("the rows after it cannot be found: {error}");
                    self.damage = Some(ReplayError::Row { path: self.path.clone(), row, reason });
                }
            }
        }
        match self.found.pop_front() {
            Some(place) => Ok(Some(place)),
            None => self.damage.take().map_or(Ok(None), Err),
        }
    }

    /// Finds the next rows; those in front of a damage are found before the error comes.
    fn look_up(&mut self) -> Result<usize, AnyError> {
        let (time, row) = self.last.unwrap_or((i64::MIN, i64::MIN));
        let mut statement = self.connection.prepare_cached(
            "SELECT id, topic_id, timestamp FROM messages WHERE (timestamp, id) > (?, ?) ORDER BY timestamp, id LIMIT ?",
        )?;
        let mut rows = statement.query((time, row, LOOKUP as i64))?;
        let mut count = 0;
        while let Some(row) = rows.next()? {
            let (row, topic, time) = (row.get(0)?, row.get(1)?, row.get(2)?);
            if self.last.is_some_and(|last| (time, row) <= last) {
                return Err(format!("row {row} is found a second time or out of order").into());
            }
            let log_time = u64::try_from(time).map_err(|_| format!("row {row} has the negative time {time}"))?;
            self.found.push_back(Place { row, topic, log_time });
            self.last = Some((time, row));
            count += 1;
        }
        Ok(count)
    }
}

/// The messages of a file.
pub(super) struct Rows {
    places: Places,
    ready: VecDeque<RowMessage>,
    /// Rows that may still be read: those in front of a damage.
    left: u64,
    /// Of the file, in bytes.
    size: u64,
    damage: Option<ReplayError>,
}

impl Rows {
    pub fn next(&mut self) -> Result<Option<RowMessage>, ReplayError> {
        if self.ready.is_empty() && self.damage.is_none() {
            self.damage = self.fill().err();
        }
        if let Some(message) = self.ready.pop_front() {
            return Ok(Some(message));
        }
        let Some(damage) = self.damage.take() else { return Ok(None) };
        self.left = 0;
        Err(damage)
    }

    /// Reads the data of the next rows.
    fn fill(&mut self) -> Result<(), ReplayError> {
        let mut bytes = 0;
        while bytes < READ && self.left > 0 {
            let Some(Place { row, topic, log_time }) = self.places.next()? else { return Ok(()) };
            let data = self.data(row).map_err(|error| {
                let reason = error.to_string();
                ReplayError::Row { path: self.places.path.clone(), row, reason }
            })?;
            bytes += data.len();
            self.left -= 1;
            self.ready.push_back(RowMessage { row, topic, log_time, data });
        }
        Ok(())
    }

    fn data(&self, row: i64) -> Result<Bytes, AnyError> {
        let blob = self.places.connection.blob_open(MAIN_DB, "messages", "data", row, true)?;
        if blob.len() as u64 > self.size {
            return Err(format!("it claims {} bytes of a file of {}", blob.len(), self.size).into());
        }
        let mut data = vec![0; blob.len()];
        blob.read_at_exact(&mut data, 0)?;
        Ok(data.into())
    }
}
