//! Questions about a board of shapes before they are worded: what is asked, its wordings, and its facts.
//!
//! Invariant: the answer is computed from the cells. The wording is that of the digit questions wherever the meaning
//! allows, so that skills carry over. Deliberately absent: how a question is drawn (`boards`, `world::shapes`).

use super::boards::{Attribute, Cells};
use super::sample::{Facts, Place, area, sentence};

/// What is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BoardAsk {
    /// Does any cell have the word?
    Exist(Attribute, &'static str),
    /// An attribute of the cell at a place.
    Query(Attribute, Place),
    /// How many cells have the word?
    Count(Attribute, &'static str),
    /// Is the first larger than the second (size), or the same as it?
    Compare(Attribute, Place, Place),
    /// An attribute of every cell of a row.
    List(Attribute, usize),
    /// Is there a shape of a colour?
    Pair(&'static str, &'static str),
    /// How many cells of a row have the word?
    RowCount(usize, Attribute, &'static str),
    /// What is right of the only shape of a colour: its attribute.
    Relate(&'static str, &'static str, Attribute),
    /// Are there more cells with the one word than with the other?
    More(Attribute, &'static str, &'static str),
    /// Whether a count is even or odd: one step more than any question of a pool.
    CountParity(Attribute, &'static str),
}

impl BoardAsk {
    /// The name of its family.
    pub fn family(self) -> &'static str {
        match self {
            Self::Exist(..) => "exist",
            Self::Query(..) => "query",
            Self::Count(..) => "count",
            Self::Compare(..) => "compare",
            Self::List(..) => "list",
            Self::Pair(..) => "pair",
            Self::RowCount(..) => "row_count",
            Self::Relate(..) => "relate",
            Self::More(..) => "more",
            Self::CountParity(..) => "count_parity",
        }
    }

    /// Every answer that it can have, but for a list: that has too many.
    pub fn choices(self) -> Vec<String> {
        let owned = |words: Vec<&str>| words.into_iter().map(str::to_owned).collect();
        match self {
            Self::Exist(..) | Self::Compare(..) | Self::Pair(..) | Self::More(..) => owned(vec!["yes", "no"]),
            Self::Query(attribute, _) => owned(attribute.words()),
            Self::Relate(_, _, attribute) => owned([attribute.words(), vec!["empty"]].concat()),
            Self::Count(..) => (0..=16).map(|n| n.to_string()).collect(),
            Self::RowCount(..) => (0..=4).map(|n| n.to_string()).collect(),
            Self::CountParity(..) => owned(vec!["even", "odd"]),
            Self::List(..) => Vec::new(),
        }
    }

    /// The ways in which pools and lessons say it.
    pub fn wordings(self) -> Vec<String> {
        match self {
            Self::Exist(_, word) => vec![
                format!("Is there a cell with {word}?"),
                format!("Does any cell show {word}?"),
                format!("Is {word} on the board?"),
            ],
            Self::Query(attribute, place) => {
                let name = attribute.name();
                vec![
                    format!("Which {name} is at {place}?"),
                    format!("What {name} is in {place}?"),
                    format!("Read the {name} at {place}."),
                ]
            }
            Self::Count(_, word) => vec![
                format!("How many cells show {word}?"),
                format!("How often is {word} on the board?"),
                format!("Count the cells with {word}."),
            ],
            Self::Compare(Attribute::Size, first, second) => vec![
                format!("Is the shape at {first} larger than the shape at {second}?"),
                format!("Is {first} larger than {second}?"),
                format!("Does {first} show a larger shape than {second}?"),
            ],
            Self::Compare(attribute, first, second) => {
                let name = attribute.name();
                vec![
                    format!("Is the {name} at {first} the same as the {name} at {second}?"),
                    format!("Is {first} of the same {name} as {second}?"),
                    format!("Does {first} show the same {name} as {second}?"),
                ]
            }
            Self::List(attribute, row) => {
                vec![format!("List the {} of each cell in row {}.", attribute.name(), row + 1)]
            }
            Self::Pair(colour, shape) => vec![
                format!("Is there a {colour} {shape}?"),
                format!("Does any cell show a {colour} {shape}?"),
                format!("Is a {colour} {shape} on the board?"),
            ],
            Self::RowCount(row, _, word) => vec![
                format!("How many cells of row {} show {word}?", row + 1),
                format!("How often is {word} in row {}?", row + 1),
                format!("Count the cells with {word} in row {}.", row + 1),
            ],
            Self::Relate(colour, shape, attribute) => {
                let name = attribute.name();
                vec![
                    format!("Which {name} is right of the {colour} {shape}?"),
                    format!("What {name} is next to the {colour} {shape} on the right?"),
                    format!("Read the {name} right of the {colour} {shape}."),
                ]
            }
            Self::More(_, one, other) => vec![
                format!("Are there more cells with {one} than with {other}?"),
                format!("Do more cells show {one} than {other}?"),
                format!("Is {one} more often on the board than {other}?"),
            ],
            Self::CountParity(_, word) => vec![
                format!("Is the count of cells with {word} even or odd?"),
                format!("Even or odd: how many cells show {word}?"),
            ],
        }
    }

    /// A way to say it that occurs in no pool and no lesson.
    pub fn unseen_wording(self) -> String {
        match self {
            Self::Exist(_, word) => format!("Can you find {word} in any of the cells?"),
            Self::Query(attribute, place) => format!("Name the {} that {place} shows.", attribute.name()),
            Self::Count(_, word) => format!("Of all cells, how many are {word}?"),
            Self::Compare(Attribute::Size, first, second) => format!("Does {first} show more than {second}?"),
            Self::Compare(attribute, first, second) => {
                format!("Are {first} and {second} the same in {}?", attribute.name())
            }
            Self::List(attribute, row) => format!("Read row {}: each {}.", row + 1, attribute.name()),
            Self::Pair(colour, shape) => format!("Can you find a {shape} that is {colour}?"),
            Self::RowCount(row, _, word) => {
                format!("Of the cells in row {}, how many are {word}?", row + 1)
            }
            Self::Relate(colour, shape, attribute) => {
                format!("The cell right of the {colour} {shape}: which {}?", attribute.name())
            }
            Self::More(_, one, other) => format!("Is {other} less often in the cells than {one}?"),
            Self::CountParity(_, word) => format!("Do an even or an odd count of cells show {word}?"),
        }
    }

    /// The answer, the steps to it and the evidence; nothing where the board leaves the question without sense.
    pub fn facts(self, cells: &Cells) -> Option<Facts> {
        let found = match self {
            Self::Exist(attribute, word) => exist(cells, &cells.hits(attribute, word), word),
            Self::Pair(colour, shape) => {
                let hits = cells.pairs(colour, shape);
                exist(cells, &hits, &format!("{colour} {shape}"))
            }
            Self::Query(attribute, place) => {
                let word = cells.word(place, attribute)?;
                Facts::new(word, vec![seen(place, word)], vec![place.region()])
            }
            Self::Count(attribute, word) => {
                let hits = cells.hits(attribute, word);
                Facts::new(hits.len(), rows_have(cells, &hits), cells.evidence(&hits))
            }
            Self::CountParity(attribute, word) => {
                let hits = cells.hits(attribute, word);
                let parity = if hits.len().is_multiple_of(2) { "even" } else { "odd" };
                let mut steps = rows_have(cells, &hits);
                steps.push(format!("{} is {parity}.", hits.len()));
                Facts::new(parity, steps, cells.evidence(&hits))
            }
            Self::Compare(attribute, first, second) => compare(cells, attribute, first, second)?,
            Self::List(attribute, row) => {
                let word = |column| cells.word(Place { row, column }, attribute).unwrap_or("empty");
                let answer = (0..cells.columns).map(word).collect::<Vec<_>>().join(" ");
                let step = format!("Row {} is {answer}.", row + 1);
                Facts::new(answer, vec![step], vec![area(row, 0, 1, cells.columns)])
            }
            Self::RowCount(row, attribute, word) => {
                let name = |column| cells.word(Place { row, column }, attribute).unwrap_or("empty");
                let words: Vec<&str> = (0..cells.columns).map(name).collect();
                let count = words.iter().filter(|other| **other == word).count();
                let steps = vec![
                    format!("Row {} is {}.", row + 1, words.join(" ")),
                    format!("Row {} has {count}.", row + 1),
                ];
                Facts::new(count, steps, vec![area(row, 0, 1, cells.columns)])
            }
            Self::Relate(colour, shape, attribute) => {
                let [place] = cells.pairs(colour, shape)[..] else { return None };
                let next = Place { row: place.row, column: place.column + 1 };
                if next.column >= cells.columns {
                    return None;
                }
                let word = cells.word(next, attribute).unwrap_or("empty");
                let steps = vec![seen(place, &format!("{colour} {shape}")), seen(next, word)];
                Facts::new(word, steps, vec![place.region(), next.region()])
            }
            Self::More(attribute, one, other) => {
                let (a, b) = (cells.hits(attribute, one), cells.hits(attribute, other));
                let relation = match a.len().cmp(&b.len()) {
                    std::cmp::Ordering::Greater => "is larger than",
                    std::cmp::Ordering::Less => "is smaller than",
                    std::cmp::Ordering::Equal => "is as large as",
                };
                let steps = vec![
                    format!("{} has {}.", sentence(one), a.len()),
                    format!("{} has {}.", sentence(other), b.len()),
                    format!("{} {relation} {}.", a.len(), b.len()),
                ];
                let answer = if a.len() > b.len() { "yes" } else { "no" };
                Facts::new(answer, steps, cells.evidence(&[a, b].concat()))
            }
        };
        Some(found)
    }
}

fn seen(place: Place, word: &str) -> String {
    format!("{} is {word}.", sentence(&place.to_string()))
}

fn exist(cells: &Cells, hits: &[Place], what: &str) -> Facts {
    let step = hits.first().map(|place| seen(*place, what));
    Facts::new(
        if hits.is_empty() { "no" } else { "yes" },
        vec![step.unwrap_or_else(|| format!("No cell is {what}."))],
        cells.evidence(&hits[..hits.len().min(1)]),
    )
}

fn rows_have(cells: &Cells, hits: &[Place]) -> Vec<String> {
    let in_row = |row: usize| hits.iter().filter(|place| place.row == row).count();
    (0..cells.rows).map(|row| format!("Row {} has {}.", row + 1, in_row(row))).collect()
}

fn compare(cells: &Cells, attribute: Attribute, first: Place, second: Place) -> Option<Facts> {
    let (a, b) = (cells.word(first, attribute)?, cells.word(second, attribute)?);
    let (truth, last) = if attribute == Attribute::Size {
        let relation = match (a, b) {
            ("large", "small") => "is larger than",
            ("small", "large") => "is smaller than",
            _ => "is as large as",
        };
        ((a, b) == ("large", "small"), format!("{a} {relation} {b}."))
    } else {
        (a == b, format!("{a} is {}{b}.", if a == b { "" } else { "not " }))
    };
    let steps = vec![seen(first, a), seen(second, b), sentence(&last)];
    Some(Facts::new(if truth { "yes" } else { "no" }, steps, vec![first.region(), second.region()]))
}
