#include <boost/json.hpp>
#include <cstdlib>
#include <string>
#include <vector>

#include "common/codec.h"
#include "ops/cli/commands.h"
#include "ops/cli/instance.h"
#include "ops/cli/output.h"
#include "ops/cli/remote.h"

namespace sigmacast::cli {
namespace {

namespace json = boost::json;

constexpr const char* kState = "/api/v1/state";

/// A name as part of a path (RFC 3986).
std::string encoded(std::string_view name) {
    constexpr std::string_view kHex = "0123456789ABCDEF";
    std::string out;
    for (const char c : name) {
        const auto byte = static_cast<unsigned char>(c);
        if ((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
            std::string_view("-._~").find(c) != std::string_view::npos) {
            out += c;
        } else {
            out += {'%', kHex[byte >> 4U], kHex[byte & 0xFU]};
        }
    }
    return out;
}

/// What the answer to `topic` (empty: all) has against it; empty: nothing.
std::string problem_of(const StateCommand& command, const http::Response& answer,
                       const std::string& topic, bool sent_token) {
    if (const std::string problem = token_problem(answer.status, sent_token); !problem.empty()) {
        return command.url + ": " + (topic.empty() ? "" : clean(topic) + ": ") + problem;
    }
    if (answer.status == 404 && !topic.empty()) {
        return command.url + " knows no topic '" + clean(topic) +
               "': `sigmacast state` lists them" +
               (command.named
                    ? ""
                    : " (a host is written with its port, as " + clean(topic) + ":12080)");
    }
    if (answer.status != 200) {
        return command.url + " answers HTTP " + std::to_string(answer.status) +
               ". Is it an edge of Sigmacast?";
    }
    return {};
}

/// Why a topic that is known has no value.
std::string why_empty(const std::string& topic, const std::string& body) {
    const auto parsed = parse_json(body);
    if (parsed && parsed->is_object()) {
        if (const json::value* sources = parsed->get_object().if_contains("sources");
            sources && sources->is_array() && !sources->get_array().empty() &&
            sources->get_array().front().is_object()) {
            const AgeView age = age_of(sources->get_array().front().get_object());
            const std::string words(reason_words(age.reason));
            return clean(topic) + " has no value: " +
                   (age.reason.empty() ? "not polled yet"
                                       : clean(age.reason) + (words.empty() ? "" : ", " + words));
        }
    }
    return clean(topic) + " has no value";
}

}  // namespace

int run_state(const StateCommand& given) {
    StateCommand command = given;
    if (!command.named) {
        const auto instance = instance_of(command.data);
        if (!instance) {
            complain(instance.error().message);
            return kExitUsage;
        }
        if (*instance) {
            command.server.tls = believe(**instance, command.trust);
            command.url = (command.server.tls ? "https://" : "http://") +
                          edge_authority((*instance)->edge_host, (*instance)->edges.front());
        }
    }
    const auto token = read_token(command.token_file, std::getenv("SIGMACAST_TOKEN"));
    if (!token) {
        complain(token.error().message);
        return kExitUsage;
    }
    const auto tls = make_tls(command.server.tls, command.trust);
    if (!tls) {
        complain(tls.error().message);
        return kExitUsage;
    }
    std::vector<std::string> topics = command.topics;
    if (topics.empty() || topics.front() == "*") {
        topics = {""};
    }
    std::vector<Question> questions;
    for (const std::string& topic : topics) {
        questions.push_back(
            {command.url, kState + (topic.empty() ? "" : "/" + encoded(topic)), *token, *tls});
    }
    const auto answers = get_all(questions);
    std::vector<StateRow> rows;
    bool failed = false;
    for (std::size_t i = 0; i < topics.size(); ++i) {
        if (!answers[i]) {
            complain(answers[i].error().message);  // The same for all the others.
            return kExitFailed;
        }
        const std::string& body = answers[i]->body;
        if (const std::string problem =
                problem_of(command, *answers[i], topics[i], !token->empty());
            !problem.empty()) {
            complain(problem);
            failed = true;
            continue;
        }
        if (command.json) {
            failed = !print(body + (body.ends_with('\n') ? "" : "\n")) || failed;
            continue;
        }
        auto found = state_rows(body);
        if (!found) {
            complain(command.url + ": " + found.error().message);
            return kExitFailed;
        }
        if (found->empty()) {
            remark(topics[i].empty() ? "This edge knows no value yet."
                                     : why_empty(topics[i], body));
        }
        rows.insert(rows.end(), found->begin(), found->end());
    }
    if (command.json || rows.empty()) {
        return failed ? kExitFailed : kExitOk;
    }
    std::vector<std::vector<Cell>> cells;
    for (const StateRow& row : rows) {
        cells.push_back(
            {{row.topic, {}},
             {row.key, {}},
             {row.origin, {}},
             {row.age.quality, row.age.quality},
             {row.age.age ? age_text(*row.age.age) : "-", {}},
             {row.age.reason + (row.age.source.empty() ? "" : " (" + row.age.source + ")"), {}},
             {row.summary, {}}});
    }
    (void)print(table({"topic", "key", "origin", "quality", "age", "reason", "value"}, cells,
                      paint_for_stdout()));
    return failed ? kExitFailed : kExitOk;
}

}  // namespace sigmacast::cli
