//! What the words of a question refer to on a board: the base learns it word by word, before any answer.
//!
//! Invariant: what a mention means is read off the captions and the answer, never off how the board was made.
//! Deliberately absent: which token a mention ends in (`pretrain`).

use super::boards;
use super::render::LATTICE;
use super::sample::{Place, Posed};

/// A place or a thing named in a question, and what the board shows of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mention {
    /// Where in the question its last byte is, plus one.
    pub end: usize,
    /// The words of the cell at the place; `yes` or `no` for a thing that is looked for.
    pub means: Vec<String>,
}

/// What the words of a question refer to: places, and in questions of existence the thing that is looked for.
pub fn mentions(posed: &Posed, captions: &[String]) -> Vec<Mention> {
    let question = &posed.question;
    if posed.family == "exist" {
        let known: Vec<String> =
            (0..10).map(|n: u8| n.to_string()).chain(boards::words().map(str::to_owned)).collect();
        let mut parts = question.split(|c: char| !c.is_ascii_alphanumeric());
        let thing = parts.rfind(|part| known.iter().any(|word| word == part));
        let end = thing.and_then(|thing| Some(question.rfind(thing)? + thing.len()));
        return end.map(|end| Mention { end, means: vec![posed.answer.clone()] }).into_iter().collect();
    }
    let named = captions.iter().enumerate().filter_map(|(index, caption)| {
        let name = Place { row: index / LATTICE, column: index % LATTICE }.to_string();
        let end = question.find(&name)? + name.len();
        Some(Mention { end, means: caption.split(' ').map(str::to_owned).collect() })
    });
    named.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn posed(question: &str, answer: &str, family: &'static str) -> Posed {
        let (question, answer) = (question.to_owned(), answer.to_owned());
        let paraphrases = vec![];
        Posed { question, paraphrases, answer, family, choices: vec![], reasoning: vec![], regions: vec![] }
    }

    fn found(posed: &Posed, captions: &[&str]) -> Vec<(String, Vec<String>)> {
        let captions: Vec<String> = captions.iter().map(|caption| (*caption).to_owned()).collect();
        let before = |mention: Mention| (posed.question[..mention.end].to_owned(), mention.means);
        mentions(posed, &captions).into_iter().map(before).collect()
    }

    #[test]
    fn a_place_means_what_its_cell_shows() {
        let question = posed("Is row 1 column 2 larger than row 1 column 1?", "no", "compare");
        let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        assert_eq!(
            found(&question, &["small red circle", "7"]),
            [
                ("Is row 1 column 2 larger than row 1 column 1".into(), words(&["small", "red", "circle"])),
                ("Is row 1 column 2".into(), words(&["7"])),
            ]
        );
    }

    #[test]
    fn what_is_looked_for_means_whether_it_is_there() {
        for question in ["Is 7 on the board?", "Does any cell show 7?"] {
            let end = question.find('7').map(|at| question[..=at].to_owned());
            let found = found(&posed(question, "yes", "exist"), &["7"]);
            assert_eq!(found, [(end.unwrap_or_default(), vec!["yes".to_owned()])]);
        }
    }
}
