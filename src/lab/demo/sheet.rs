//! The contact sheet: what was chosen first, by the base model, and what was chosen last.
//!
//! Invariant: a self-contained SVG; every text from outside is escaped. Deliberately absent: which boards were
//! chosen, which only the service knows.

use std::collections::BTreeMap;
use std::fmt::Write;

use base64::Engine;

/// A board that was chosen and labelled.
#[derive(Debug, Clone, PartialEq)]
pub struct Pick {
    /// Round whose plan held it.
    pub round: i64,
    /// Place in the plan.
    pub rank: i64,
    /// The picture as PNG.
    pub image_png: Vec<u8>,
    /// The question.
    pub question: String,
    /// The annotator's answer.
    pub answer: String,
    /// Kind of question.
    pub family: String,
    /// Why it was planned, for example `ACTIVE`.
    pub arm: String,
    /// Entropy of the model's answer when it was planned, nats.
    pub entropy: Option<f32>,
}

const COLUMNS: usize = 6;
const CARD: (usize, usize) = (190, 286);
const GAP: usize = 14;
const MARGIN: usize = 30;
const THUMBNAIL: usize = 164;
const HEADER: usize = 78;
const BAND: usize = 74;
const LINE_CHARS: usize = 25;

/// Draws the `each` highest ranked boards of the first round above as many of the last.
pub fn contact_sheet(strategy: &str, picks: &[Pick], each: usize) -> String {
    let first = picks.iter().map(|pick| pick.round).min().unwrap_or(1);
    let last = picks.iter().map(|pick| pick.round).max().unwrap_or(1);
    let mut bands = vec![(first, "chosen by the base model, which had seen no label of this pool")];
    if last != first {
        bands.push((last, "chosen by the model trained on the rounds before"));
    }
    let (mut body, mut y) = (String::new(), HEADER);
    for (round, what) in bands {
        let mut of_round: Vec<&Pick> = picks.iter().filter(|pick| pick.round == round).collect();
        of_round.sort_by_key(|pick| pick.rank);
        y = band(&mut body, y, &format!("Round {round}: {what}"), &of_round, each);
    }
    let width = 2 * MARGIN + COLUMNS * CARD.0 + (COLUMNS - 1) * GAP;
    let title = escape(&format!("What {strategy} asked for"));
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" viewBox=\"0 0 {width} {height}\" \
         font-family=\"sans-serif\">\n<rect width=\"100%\" height=\"100%\" fill=\"#f4f5f7\"/>\n\
         <text x=\"{MARGIN}\" y=\"48\" font-size=\"27\" font-weight=\"bold\" fill=\"#16191d\">{title}</text>\n\
         <text x=\"{MARGIN}\" y=\"70\" font-size=\"14\" fill=\"#5b636e\">Highest ranks of each plan; blue: chosen by the \
         strategy, grey: random control. H is the entropy of the model's answer.</text>\n{body}</svg>\n",
        height = y + MARGIN,
    )
}

/// One round's heading and cards; returns where the next may begin.
fn band(body: &mut String, top: usize, heading: &str, picks: &[&Pick], each: usize) -> usize {
    let _ = writeln!(
        body,
        "<text x=\"{MARGIN}\" y=\"{}\" font-size=\"19\" font-weight=\"bold\" fill=\"#16191d\">{}</text>\n\
         <text x=\"{MARGIN}\" y=\"{}\" font-size=\"14\" fill=\"#5b636e\">{}</text>",
        top + 34,
        escape(heading),
        top + 56,
        escape(&summary(picks)),
    );
    let shown = picks.len().min(each);
    for (index, pick) in picks.iter().take(shown).enumerate() {
        let x = MARGIN + index % COLUMNS * (CARD.0 + GAP);
        card(body, x, top + BAND + index / COLUMNS * (CARD.1 + GAP), pick);
    }
    top + BAND + shown.div_ceil(COLUMNS) * (CARD.1 + GAP)
}

fn card(body: &mut String, x: usize, y: usize, pick: &Pick) {
    let png = base64::engine::general_purpose::STANDARD.encode(&pick.image_png);
    let colour = if pick.arm == "ACTIVE" { "#1d5fb4" } else { "#7a828c" };
    let (inner, text) = (x + (CARD.0 - THUMBNAIL) / 2, y + THUMBNAIL + 34);
    let entropy = pick.entropy.map_or("no score".into(), |nats| format!("H {nats:.2} nats"));
    let _ = write!(
        body,
        "<g><rect x=\"{x}\" y=\"{y}\" width=\"{}\" height=\"{}\" rx=\"8\" fill=\"#ffffff\" stroke=\"#d5d9de\"/>\n\
         <rect x=\"{x}\" y=\"{y}\" width=\"{}\" height=\"5\" rx=\"2\" fill=\"{colour}\"/>\n\
         <image x=\"{inner}\" y=\"{}\" width=\"{THUMBNAIL}\" height=\"{THUMBNAIL}\" \
         style=\"image-rendering:pixelated\" href=\"data:image/png;base64,{png}\"/>\n",
        CARD.0,
        CARD.1,
        CARD.0,
        y + 13,
    );
    for (line, words) in wrap(&pick.question, LINE_CHARS, 3).iter().enumerate() {
        let words = escape(words);
        let _ = writeln!(
            body,
            "<text x=\"{inner}\" y=\"{}\" font-size=\"12\" fill=\"#16191d\">{words}</text>",
            text + 15 * line
        );
    }
    let _ = writeln!(
        body,
        "<text x=\"{inner}\" y=\"{a}\" font-size=\"14\" font-weight=\"bold\" fill=\"#16191d\">{answer}</text>\n\
         <text x=\"{right}\" y=\"{a}\" font-size=\"12\" text-anchor=\"end\" fill=\"#5b636e\">{entropy}</text>\n\
         <text x=\"{inner}\" y=\"{b}\" font-size=\"11\" fill=\"{colour}\">{arm}</text>\n\
         <text x=\"{right}\" y=\"{b}\" font-size=\"11\" text-anchor=\"end\" fill=\"#5b636e\">rank {rank}</text></g>",
        a = y + CARD.1 - 32,
        b = y + CARD.1 - 13,
        right = inner + THUMBNAIL,
        answer = escape(&pick.answer),
        arm = escape(&pick.arm.replace('_', " ").to_lowercase()),
        rank = pick.rank,
    );
}

/// Mean entropy and families of all boards of a round, also of those not shown.
fn summary(picks: &[&Pick]) -> String {
    let entropies: Vec<f32> = picks.iter().filter_map(|pick| pick.entropy).collect();
    let mut families: BTreeMap<&str, usize> = BTreeMap::new();
    for pick in picks {
        *families.entry(&pick.family).or_default() += 1;
    }
    let families: Vec<String> = families.iter().map(|(family, count)| format!("{family} {count}")).collect();
    let mean = match entropies.len() {
        0 => "not scored".to_owned(),
        scored => format!("mean H {:.2} nats", entropies.iter().sum::<f32>() / scored as f32),
    };
    format!("{} boards labelled, {mean}: {}", picks.len(), families.join(", "))
}

/// Breaks at blanks into at most `lines` lines of about `width` characters; the last one takes what is left, cut.
fn wrap(text: &str, width: usize, lines: usize) -> Vec<String> {
    let mut broken: Vec<String> = vec![String::new()];
    for word in text.split_whitespace() {
        let full = broken.last().is_some_and(|line| !line.is_empty() && line.len() + word.len() >= width);
        if full {
            broken.push(String::new());
        }
        if let Some(line) = broken.last_mut() {
            line.push_str(if line.is_empty() { "" } else { " " });
            line.push_str(word);
        }
    }
    if broken.len() > lines {
        broken.truncate(lines);
        if let Some(line) = broken.last_mut() {
            line.push('…');
        }
    }
    broken
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pick(round: i64, rank: i64) -> Pick {
        Pick {
            round,
            rank,
            image_png: vec![1, 2, 3],
            question: format!("Is {rank} < 5 & odd?"),
            answer: "yes".into(),
            family: "parity".into(),
            arm: "ACTIVE".into(),
            entropy: Some(0.5),
        }
    }

    #[test]
    fn the_sheet_shows_the_best_ranks_of_the_first_and_the_last_round_only() {
        let picks = [pick(3, 2), pick(3, 0), pick(2, 7), pick(1, 9), pick(1, 1)];
        let svg = contact_sheet("MARGIN", &picks, 1);
        assert_eq!(svg.matches("<image").count(), 2);
        assert!(svg.contains("rank 1") && svg.contains("rank 0"));
        assert!(!svg.contains("rank 2") && !svg.contains("rank 7") && !svg.contains("rank 9"));
        assert!(svg.contains("Round 1: ") && svg.contains("Round 3: ") && svg.contains("2 boards labelled"));
    }

    #[test]
    fn text_is_escaped_and_pictures_are_embedded() {
        let svg = contact_sheet("A&B", &[pick(1, 0)], 12);
        assert!(svg.contains("What A&amp;B asked for") && svg.contains("Is 0 &lt; 5 &amp; odd?"));
        assert!(svg.contains("data:image/png;base64,AQID"));
        assert_eq!(svg.matches("<svg").count(), svg.matches("</svg>").count());
    }

    #[test]
    fn long_questions_are_broken_and_cut() {
        assert_eq!(wrap("one two three", 8, 3), ["one two", "three"]);
        assert_eq!(wrap("one two three", 4, 2), ["one", "two…"]);
    }
}
