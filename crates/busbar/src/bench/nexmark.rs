//! The events of NEXMark, a benchmark of streaming queries over an online auction: people who register, auctions that they
//! open, and bids.
//!
//! Of fifty events one is a person, three are auctions and 46 are bids. As in NEXMark's own generator three quarters of the
//! auctions have one of few sellers, half of the bids are for one of few auctions, and three quarters come from one of few
//! bidders. An event depends on its number alone, so that every run has the same events.

use std::fmt::Write as _;

/// Which stream an event belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Somebody registers.
    Person,
    /// Somebody offers an item.
    Auction,
    /// Somebody bids for an item.
    Bid,
}

impl Kind {
    /// The topic that events are published under.
    pub fn topic(self) -> &'static str {
        match self {
            Kind::Person => "nexmark/person",
            Kind::Auction => "nexmark/auction",
            Kind::Bid => "nexmark/bid",
        }
    }
}

/// Where a run's own time begins and how fast it goes.
#[derive(Clone, Copy, Debug)]
pub struct Nexmark {
    /// The time of the first event, in microseconds since 1970.
    pub begin_micros: i64,
    /// Events in a second of their own time.
    pub events_per_second: u64,
}

impl Default for Nexmark {
    /// From 2026-03-01T00:00:00Z on, as fast as NEXMark's own generator by default.
    fn default() -> Self {
        Self {
            begin_micros: 1_772_323_200_000_000,
            events_per_second: 10_000,
        }
    }
}

const PERSON_PROPORTION: u64 = 1;
const AUCTION_PROPORTION: u64 = 3;
const TOTAL_PROPORTION: u64 = 50;
const FIRST_ID: u64 = 1000;
const FIRST_CATEGORY: u64 = 10;
const CATEGORIES: u64 = 5;
/// People who may act, and auctions that may be bid for, at a time.
const ACTIVE_PEOPLE: u64 = 1000;
const AUCTIONS_IN_FLIGHT: u64 = 100;
/// Ids ahead of those that there are already: an event may name what comes a moment later.
const ID_LEAD: u64 = 10;
/// One of so many sellers, bidders and auctions is much in demand.
const HOT_EVERY: u64 = 100;
const CHANNELS: u64 = 10_000;

const STATES: [&str; 6] = ["AZ", "CA", "ID", "OR", "WA", "WY"];
const CITIES: [&str; 10] = [
    "Phoenix",
    "Los Angeles",
    "San Francisco",
    "Boise",
    "Portland",
    "Bend",
    "Redmond",
    "Seattle",
    "Kent",
    "Cheyenne",
];
const FIRST_NAMES: [&str; 11] = [
    "Peter", "Paul", "Luke", "John", "Saul", "Vicky", "Kate", "Julie", "Sarah", "Deiter", "Walter",
];
const LAST_NAMES: [&str; 10] = [
    "Shultz", "Abrams", "Spencer", "White", "Bartels", "Walton", "Smith", "Jones", "Noris", "Li",
];
const HOT_CHANNELS: [&str; 4] = ["Google", "Facebook", "Baidu", "Apple"];

/// Which kind of event stands at a number.
pub fn kind(number: u64) -> Kind {
    match number % TOTAL_PROPORTION {
        0 => Kind::Person,
        1..=3 => Kind::Auction,
        _ => Kind::Bid,
    }
}

impl Nexmark {
    /// The time of an event, in microseconds since 1970.
    pub fn time_micros(&self, number: u64) -> i64 {
        let micros = number.saturating_mul(1_000_000) / self.events_per_second;
        self.begin_micros.saturating_add_unsigned(micros)
    }

    /// Writes the payload of an event, as JSON, behind what is in `out` already.
    pub fn payload(&self, number: u64, out: &mut String) {
        let mut random =
            SplitMix(number.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x5851_f42d_4c95_7f2d);
        let time = Time(self.time_micros(number));
        // Writing to a text does not fail.
        let _ = match kind(number) {
            Kind::Person => person(number, time, &mut random, out),
            Kind::Auction => self.auction(number, time, &mut random, out),
            Kind::Bid => bid(number, time, &mut random, out),
        };
    }

    fn auction(
        &self,
        number: u64,
        time: Time,
        random: &mut SplitMix,
        out: &mut String,
    ) -> std::fmt::Result {
        let id = FIRST_ID + last_auction(number);
        let seller = match random.below(4) {
            0 => next_person(number, random),
            _ => last_person(number) / HOT_EVERY * HOT_EVERY,
        };
        let category = FIRST_CATEGORY + random.below(CATEGORIES);
        let first = random.price();
        let reserve = first + random.price();
        // About as long as the auctions in flight take to be opened.
        let ahead = number + AUCTIONS_IN_FLIGHT * TOTAL_PROPORTION / AUCTION_PROPORTION;
        let horizon_millis = (self.time_micros(ahead) - time.0).unsigned_abs() / 1000;
        let open_millis = 1 + random.below((horizon_millis * 2).max(1));
        let expires = Time(time.0.saturating_add_unsigned(open_millis * 1000));
        write!(
            out,
            r#"{{"id":{id},"item_name":"{}","description":"{}","initial_bid":{first},"reserve":{reserve},"date_time":"{time}","expires":"{expires}","seller":{},"category":{category},"extra":"{}"}}"#,
            random.text(20),
            random.text(100),
            FIRST_ID + seller,
            random.text(160),
        )
    }
}

fn person(number: u64, time: Time, random: &mut SplitMix, out: &mut String) -> std::fmt::Result {
    let id = FIRST_ID + last_person(number);
    let name = [random.of(&FIRST_NAMES), random.of(&LAST_NAMES)].join(" ");
    let (city, state) = (random.of(&CITIES), random.of(&STATES));
    let card = random.below(10_000_000_000_000_000);
    write!(
        out,
        r#"{{"id":{id},"name":"{name}","email_address":"{}@{}.com","credit_card":"{card:016}","city":"{city}","state":"{state}","date_time":"{time}","extra":"{}"}}"#,
        random.text(7),
        random.text(5),
        random.text(60),
    )
}

fn bid(number: u64, time: Time, random: &mut SplitMix, out: &mut String) -> std::fmt::Result {
    let auction = match random.below(2) {
        0 => next_auction(number, random),
        _ => last_auction(number) / HOT_EVERY * HOT_EVERY,
    };
    let bidder = match random.below(4) {
        0 => next_person(number, random),
        _ => last_person(number) / HOT_EVERY * HOT_EVERY + 1,
    };
    let price = random.price();
    write!(
        out,
        r#"{{"auction":{},"bidder":{},"price":{price},"#,
        FIRST_ID + auction,
        FIRST_ID + bidder,
    )?;
    let url = |random: &mut SplitMix| {
        let (a, b, c) = (random.text(5), random.text(5), random.text(5));
        format!("https://www.nexmark.com/{a}/{b}/{c}/item.htm?query=1")
    };
    match random.below(2) {
        0 => {
            let channel = random.below(CHANNELS);
            // Those of one channel have one address.
            let mut of_channel = SplitMix(channel.wrapping_mul(0xd134_2543_de82_ef95));
            let url = url(&mut of_channel);
            write!(
                out,
                r#""channel":"channel-{channel}","url":"{url}&channel_id={channel}","#
            )?;
        }
        _ => {
            let channel = random.of(&HOT_CHANNELS);
            let url = url(random);
            write!(out, r#""channel":"{channel}","url":"{url}","#)?;
        }
    }
    write!(
        out,
        r#""date_time":"{time}","extra":"{}"}}"#,
        random.text(14)
    )
}

/// Ids count from 0 here.
fn last_person(number: u64) -> u64 {
    number / TOTAL_PROPORTION * PERSON_PROPORTION
}

fn last_auction(number: u64) -> u64 {
    let (epoch, offset) = (number / TOTAL_PROPORTION, number % TOTAL_PROPORTION);
    match offset {
        0 => (epoch * AUCTION_PROPORTION).saturating_sub(1),
        1..=3 => epoch * AUCTION_PROPORTION + offset - 1,
        _ => epoch * AUCTION_PROPORTION + AUCTION_PROPORTION - 1,
    }
}

fn next_person(number: u64, random: &mut SplitMix) -> u64 {
    let people = last_person(number) + 1;
    let active = people.min(ACTIVE_PEOPLE);
    people - active + random.below(active + ID_LEAD)
}

fn next_auction(number: u64, random: &mut SplitMix) -> u64 {
    let last = last_auction(number);
    let first = last.saturating_sub(AUCTIONS_IN_FLIGHT);
    first + random.below(last - first + 1 + ID_LEAD)
}

/// Microseconds since 1970, written as a time with milliseconds.
#[derive(Clone, Copy, Debug)]
pub struct Time(pub i64);

impl std::fmt::Display for Time {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let millis = self.0.div_euclid(1000);
        let (seconds, millis) = (millis.div_euclid(1000), millis.rem_euclid(1000));
        let (days, second) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
        // From days since 1970 to a date, by eras of 400 years that begin in March.
        let shifted = days + 719_468;
        let (era, day) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
        let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
        let day = day - (365 * year + year / 4 - year / 100);
        let month = (5 * day + 2) / 153;
        let day = day - (153 * month + 2) / 5 + 1;
        let (year, month) = match month {
            0..=9 => (year + era * 400, month + 3),
            _ => (year + era * 400 + 1, month - 9),
        };
        let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
        write!(
            f,
            "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{millis:03}Z"
        )
    }
}

/// Numbers that look random (SplitMix64).
struct SplitMix(u64);

impl SplitMix {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    fn of<'a>(&mut self, words: &[&'a str]) -> &'a str {
        words[self.below(words.len() as u64) as usize]
    }

    /// Between 1 and a million dollars, in cents; small prices are as frequent as large ones.
    fn price(&mut self) -> u64 {
        let unit = (self.next() >> 11) as f64 / (1_u64 << 53) as f64;
        (10_f64.powf(unit * 6.0) * 100.0).round() as u64
    }

    fn text(&mut self, length: usize) -> String {
        (0..length)
            .map(|_| char::from(b'a' + (self.below(26)) as u8))
            .collect()
    }
}
