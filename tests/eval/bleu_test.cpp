#include "locus/eval/bleu.h"

#include <gtest/gtest.h>

#include <cmath>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "locus/base/error.h"
#include "locus/base/file.h"
#include "tests/support/expect_error.h"

namespace locus::eval {
namespace {

using Strings = std::vector<std::string>;

constexpr double kClose = 1e-9;

Bleu bleu_of(const Strings& hypotheses, const Strings& references) {
  return corpus_bleu(hypotheses, references);
}

void expect_precisions(const Bleu& bleu, const std::vector<double>& expected) {
  ASSERT_EQ(expected.size(), bleu.precisions.size());
  for (size_t i = 0; i < expected.size(); ++i) {
    EXPECT_NEAR(bleu.precisions[i], expected[i], kClose) << "order " << i + 1;
  }
}

// What sacrebleu said: tests/golden/make_bleu.py.
nlohmann::json golden(const char* section) {
  return nlohmann::json::parse(read_file(LOCUS_SOURCE_DIR "/tests/golden/bleu.json")).at(section);
}

TEST(Bleu, IsAHundredForTheReferenceItself) {
  const Strings text = {"the cat sat on the mat.", "Sie sa\xc3\x9f da"};
  const Bleu bleu = bleu_of(text, text);
  EXPECT_NEAR(bleu.score, 100, kClose);
  expect_precisions(bleu, {100, 100, 100, 100});
  EXPECT_EQ(bleu.brevity_penalty, 1);
  EXPECT_EQ(bleu.hypothesis_length, 10);
  EXPECT_EQ(bleu.reference_length, 10);
}

TEST(Bleu, IsNoughtWithoutAnyMatch) {
  const Bleu bleu = bleu_of({"one two three four five"}, {"a b c d"});
  EXPECT_EQ(bleu.score, 0);
  expect_precisions(bleu, {0, 0, 0, 0});
  EXPECT_EQ(bleu.brevity_penalty, 1);
}

TEST(Bleu, IsNoughtForAnEmptyHypothesis) {
  const Bleu bleu = bleu_of({""}, {"a b c d"});
  EXPECT_EQ(bleu.score, 0);
  EXPECT_EQ(bleu.brevity_penalty, 0);
  EXPECT_EQ(bleu.hypothesis_length, 0);
  EXPECT_EQ(bleu.reference_length, 4);
}

TEST(Bleu, IsNoughtWithoutAnyText) {
  for (const Strings& none : {Strings{}, Strings{"", " "}}) {
    const Bleu bleu = bleu_of(none, none);
    EXPECT_EQ(bleu.score, 0);
    EXPECT_EQ(bleu.brevity_penalty, 1);
    EXPECT_EQ(bleu.reference_length, 0);
  }
}

TEST(Bleu, PunishesAShorterHypothesis) {
  const Bleu bleu = bleu_of({"a b c d"}, {"a b c d e"});
  expect_precisions(bleu, {100, 100, 100, 100});
  EXPECT_NEAR(bleu.brevity_penalty, std::exp(-0.25), kClose);
  EXPECT_NEAR(bleu.score, 100 * std::exp(-0.25), kClose);
}

TEST(Bleu, CountsAMatchAtMostAsOftenAsTheReferenceHasIt) {
  // Papineni's example: 2 of 7. The orders above have no match: a half, a fourth, an eighth of one.
  const Bleu bleu = bleu_of({"the the the the the the the"}, {"the cat is on the mat"});
  expect_precisions(bleu, {200. / 7, 50. / 6, 25. / 5, 12.5 / 4});
  EXPECT_NEAR(bleu.score, std::pow(200. / 7 * 50 / 6 * 5 * 12.5 / 4, 0.25), kClose);
}

TEST(Bleu, SmoothsFromTheFirstOrderWithoutAMatch) {
  const Bleu bleu = bleu_of({"a b x c d y"}, {"a b u c d v"});
  expect_precisions(bleu, {400. / 6, 200. / 5, 50. / 4, 25. / 3});
}

TEST(Bleu, AddsUpCountsNotScores) {
  // 4 + 1 of 4 + 4 tokens, 3 + 0 of 3 + 3 pairs, 2 of 4, 1 of 2; 8 tokens for 8.
  const Bleu bleu = bleu_of({"a b c d", "e x y z"}, {"a b c d", "e f g h"});
  expect_precisions(bleu, {500. / 8, 300. / 6, 200. / 4, 100. / 2});
  EXPECT_EQ(bleu.brevity_penalty, 1);
}

TEST(Bleu, MatchesWithinASentenceOnly) {
  const Bleu bleu = bleu_of({"a b c d", "e f g h"}, {"e f g h", "a b c d"});
  EXPECT_EQ(bleu.score, 0);
}

TEST(Bleu, IsNoughtWhereNoHypothesisHasFourTokens) {
  const Bleu bleu = bleu_of({"a b c"}, {"a b c"});
  EXPECT_EQ(bleu.score, 0);
  expect_precisions(bleu, {100, 100, 100, 0});
}

TEST(Bleu, HeedsCase) { EXPECT_EQ(bleu_of({"THE CAT SAT DOWN"}, {"the cat sat down"}).score, 0); }

TEST(Bleu, WantsAReferenceForEachHypothesis) {
  const std::string message = test::error_of<InternalError>([] { bleu_of({"a", "b"}, {"a"}); });
  EXPECT_NE(message.find("2 hypotheses and 1 references"), std::string::npos) << message;
}

TEST(Bleu, IsThatOfSacrebleu) {
  for (const auto& corpus : golden("corpora")) {
    SCOPED_TRACE(corpus.at("name"));
    const Bleu bleu = bleu_of(corpus.at("hypotheses"), corpus.at("references"));
    EXPECT_NEAR(bleu.score, corpus.at("score"), kClose);
    expect_precisions(bleu, corpus.at("precisions"));
    EXPECT_NEAR(bleu.brevity_penalty, corpus.at("brevity_penalty"), kClose);
    EXPECT_EQ(bleu.hypothesis_length, corpus.at("hypothesis_length"));
    EXPECT_EQ(bleu.reference_length, corpus.at("reference_length"));
  }
}

TEST(Tokenize13a, SetsSymbolsApartButNoApostrophes) {
  EXPECT_EQ(tokenize_13a("\"Rex\"(a/b)=[c_d]?"), (Strings{"\"", "Rex", "\"", "(", "a", "/", "b",
                                                          ")", "=", "[", "c", "_", "d", "]", "?"}));
  EXPECT_EQ(tokenize_13a("the dog's, 'no'"), (Strings{"the", "dog's", ",", "'no'"}));
}

TEST(Tokenize13a, KeepsPointsBetweenDigits) {
  EXPECT_EQ(tokenize_13a("1.250,75 Euro."), (Strings{"1.250,75", "Euro", "."}));
  EXPECT_EQ(tokenize_13a("am 3. Mai, .5 a.3 3.b"),
            (Strings{"am", "3", ".", "Mai", ",", ".", "5", "a", ".", "3", "3", ".", "b"}));
  EXPECT_EQ(tokenize_13a("etc..."), (Strings{"etc", ".", ".", "."}));
  EXPECT_EQ(tokenize_13a("3..5"), (Strings{"3", ".", ".", "5"}));
}

TEST(Tokenize13a, SetsHyphensApartBehindDigitsOnly) {
  EXPECT_EQ(tokenize_13a("1998-99 E-Mail -5 A-1"),
            (Strings{"1998", "-", "99", "E-Mail", "-5", "A-1"}));
}

TEST(Tokenize13a, JoinsWhatALineBreakDivided) {
  EXPECT_EQ(tokenize_13a("divi-\nded\nline <skipped>x"), (Strings{"divided", "line", "x"}));
  // Taken out one after the other: what the first removal brings together counts.
  EXPECT_EQ(tokenize_13a("divi-<skipped>\nded"), (Strings{"divided"}));
}

TEST(Tokenize13a, ReadsEntitiesInTheirOrder) {
  EXPECT_EQ(tokenize_13a("AT&amp;T &lt;&gt; &quot;"), (Strings{"AT", "&", "T", "<", ">", "\""}));
  EXPECT_EQ(tokenize_13a("&amp;lt; &amp;quot;"), (Strings{"<", "&", "quot", ";"}));
}

TEST(Tokenize13a, LeavesTextBeyondAsciiWhole) {
  const std::string quoted = "\xe2\x80\x9e\xc3\x84pfel\xe2\x80\x9c";  // in German quotation marks
  EXPECT_EQ(tokenize_13a(quoted + ", \xc3\x96l.\xc3\x9f"),
            (Strings{quoted, ",", "\xc3\x96l", ".", "\xc3\x9f"}));
  EXPECT_EQ(tokenize_13a("\xf0\x9f\x98\x80!"), (Strings{"\xf0\x9f\x98\x80", "!"}));
}

TEST(Tokenize13a, DividesAtTheWhitespaceOfUnicode) {
  EXPECT_EQ(tokenize_13a("a\xc2\xa0"
                         "b\xe2\x80\x83"
                         "c\xe3\x80\x80"
                         "d\x1f"
                         "e\tf\r\n"),
            (Strings{"a", "b", "c", "d", "e", "f"}));
  EXPECT_EQ(tokenize_13a("a\xe2\x80\x8b"
                         "b"),
            (Strings{"a\xe2\x80\x8b"
                     "b"}));  // U+200B has no width, and is no whitespace
  EXPECT_EQ(tokenize_13a(" \n"), Strings{});
}

TEST(Tokenize13a, IsThatOfSacrebleu) {
  for (const auto& sentence : golden("tokens")) {
    EXPECT_EQ(tokenize_13a(sentence.at("text").get<std::string>()), sentence.at("tokens"))
        << sentence.dump();
  }
}

}  // namespace
}  // namespace locus::eval
