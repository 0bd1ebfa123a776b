//! The Open Bandit log as requests: who saw what, what else could have been shown, what was clicked.
//!
//! Tokens become ids exactly as they did in training (the golden rows of the bundle judge it): small vocabularies by number, hashed text by
//! `1 + FNV-1a-64(text) mod (rows − 1)`, missing 0; affinities by ln(1 + x).

use std::collections::BTreeMap;
use std::io::Read;

use flate2::read::GzDecoder;

/// What is known of the user and the page: one row.
#[derive(Clone, Debug, PartialEq)]
pub struct Context {
    /// Ids by feature name.
    pub ids: [(&'static str, u32); 8],
    /// ln(1 + sum of the user's affinities).
    pub affinity_total: f32,
}

/// An item of a campaign: one candidate.
#[derive(Clone, Debug, PartialEq)]
pub struct Item {
    /// As the log numbers it.
    pub number: u32,
    /// Ids by feature name.
    pub ids: [(&'static str, u32); 4],
    /// The item table's number.
    pub item_feature_0: f32,
}

/// One impression.
#[derive(Clone, Debug)]
pub struct Impression {
    /// Its user and page.
    pub context: Context,
    /// Index into [`Log::catalogs`]: what could have been shown.
    pub catalog: usize,
    /// The item that was shown.
    pub shown: u32,
    /// Whether it was clicked.
    pub clicked: bool,
    /// Campaign, hour and position as text, for the table.
    pub label: String,
    /// The user's affinity to items, where it is not zero.
    pub history: Vec<(u32, f32)>,
}

impl Impression {
    /// ln(1 + affinity) of the user to an item. The log names the affinity of the item that was shown; for all others it is read from `history`,
    /// which lists every item with an affinity other than zero.
    pub fn affinity(&self, item: u32) -> f32 {
        self.history.iter().find(|(number, _)| *number == item).map_or(0.0, |(_, weight)| weight.ln_1p())
    }
}

/// The whole log.
#[derive(Debug)]
pub struct Log {
    /// In the order of time.
    pub impressions: Vec<Impression>,
    /// The items of each (policy, campaign): the two policies of the log hash their item tables differently.
    pub catalogs: Vec<Vec<Item>>,
}

/// The log cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// Not a gzip, or damaged.
    #[error("the log cannot be unpacked: {0}")]
    Gzip(#[from] std::io::Error),
    /// Not the CSV that is expected.
    #[error("the log: {0}")]
    Csv(#[from] csv::Error),
    /// A field that is not what its column says.
    #[error("the log: line {line}: column {column}: {text:?} is not {expected}")]
    Field {
        /// 1 is the header.
        line: usize,
        /// Which column.
        column: &'static str,
        /// What it holds.
        text: String,
        /// What it should hold.
        expected: &'static str,
    },
}

/// A line of the item tables.
#[derive(serde::Deserialize)]
struct ItemLine {
    policy: String,
    campaign: String,
    item: u32,
    item_feature_0: f32,
    item_feature_1: String,
    item_feature_2: String,
    item_feature_3: String,
}

/// A line of the log.
#[derive(serde::Deserialize)]
struct Line {
    timestamp: String,
    policy: String,
    campaign: String,
    item: u32,
    position: u32,
    click: u8,
    user_feature_0: String,
    user_feature_1: String,
    user_feature_2: String,
    user_feature_3: String,
    history: String,
}

impl Log {
    /// Reads a gzipped log and the gzipped items of its campaigns.
    pub fn read(impressions: &[u8], items: &[u8]) -> Result<Log, LogError> {
        let mut catalogs: BTreeMap<(u32, u32), Vec<Item>> = BTreeMap::new();
        for (index, line) in csv::Reader::from_reader(&unpack(items)?[..]).deserialize().enumerate() {
            let line: ItemLine = line?;
            catalogs.entry(place(index + 2, &line.policy, &line.campaign)?).or_default().push(line.item());
        }
        let mut log = Log { impressions: Vec::new(), catalogs: Vec::new() };
        let places: BTreeMap<(u32, u32), usize> = catalogs.keys().enumerate().map(|(index, place)| (*place, index)).collect();
        log.catalogs = catalogs.into_values().collect();
        for (index, line) in csv::Reader::from_reader(&unpack(impressions)?[..]).deserialize().enumerate() {
            let line: Line = line?;
            let place = place(index + 2, &line.policy, &line.campaign)?;
            let Some(catalog) = places.get(&place) else {
                let expected = "a campaign that has items";
                return Err(LogError::Field { line: index + 2, column: "campaign", text: line.campaign, expected });
            };
            log.impressions.push(line.impression(index + 2, place, *catalog)?);
        }
        Ok(log)
    }
}

fn unpack(gzip: &[u8]) -> Result<Vec<u8>, LogError> {
    let mut text = Vec::new();
    GzDecoder::new(gzip).take(UNPACKED_BYTES_MAX).read_to_end(&mut text)?;
    Ok(text)
}

/// Policy and campaign as the model numbers them.
fn place(line: usize, policy: &str, campaign: &str) -> Result<(u32, u32), LogError> {
    Ok((choose(line, "policy", policy, &["bts", "random"])?, choose(line, "campaign", campaign, &["all", "men", "women"])?))
}

impl ItemLine {
    fn item(&self) -> Item {
        Item {
            number: self.item,
            ids: [
                ("item", self.item + 1),
                ("item_feature_1", token_id(&self.item_feature_1, 128)),
                ("item_feature_2", token_id(&self.item_feature_2, 64)),
                ("item_feature_3", token_id(&self.item_feature_3, 64)),
            ],
            item_feature_0: self.item_feature_0,
        }
    }
}

impl Line {
    fn impression(&self, line: usize, (policy, campaign): (u32, u32), catalog: usize) -> Result<Impression, LogError> {
        let hour = self.timestamp.get(11..13).unwrap_or_default();
        let hour_id = 1 + number::<u32>(line, "timestamp", hour, "a time with the hour at its 12th letter")?;
        let history = self.history.split_whitespace().map(|entry| {
            let (item, weight) = entry.split_once(':').unwrap_or((entry, ""));
            Ok((number(line, "history", item, "item:weight")?, number(line, "history", weight, "item:weight")?))
        });
        let history = history.collect::<Result<Vec<(u32, f32)>, LogError>>()?;
        let affinity: f32 = history.iter().map(|(_, weight)| weight).sum();
        let ids = [
            ("policy", policy),
            ("campaign", campaign),
            ("position", self.position),
            ("hour", hour_id),
            ("user_feature_0", token_id(&self.user_feature_0, 16)),
            ("user_feature_1", token_id(&self.user_feature_1, 16)),
            ("user_feature_2", token_id(&self.user_feature_2, 32)),
            ("user_feature_3", token_id(&self.user_feature_3, 32)),
        ];
        Ok(Impression {
            context: Context { ids, affinity_total: affinity.ln_1p() },
            catalog,
            shown: self.item,
            clicked: self.click == 1,
            label: format!("{} {hour}h pos {}", self.campaign, self.position),
            history,
        })
    }
}

/// 1-based place of a word.
fn choose(line: usize, column: &'static str, text: &str, words: &'static [&'static str]) -> Result<u32, LogError> {
    match words.iter().position(|word| *word == text) {
        Some(index) => Ok(index as u32 + 1),
        None => Err(LogError::Field { line, column, text: text.into(), expected: "a word of its vocabulary" }),
    }
}

fn number<T: std::str::FromStr>(line: usize, column: &'static str, text: &str, expected: &'static str) -> Result<T, LogError> {
    text.parse().map_err(|_| LogError::Field { line, column, text: text.into(), expected })
}

/// The id of a hashed text in a vocabulary of `rows`.
fn token_id(text: &str, rows: u64) -> u32 {
    if text.is_empty() {
        return 0;
    }
    let hash = text.bytes().fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3));
    1 + (hash % (rows - 1)) as u32
}

/// The log is 3 MB unpacked; a damaged one may claim anything.
const UNPACKED_BYTES_MAX: u64 = 64 << 20;
