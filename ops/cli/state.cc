#include <boost/json.hpp>
#include <cstdlib>
#include <string>

#include "ops/cli/commands.h"
#include "ops/cli/output.h"
#include "ops/cli/remote.h"

namespace sigmacast::cli {

int run_state(const StateCommand& command) {
    const auto token = read_token(command.token_file, std::getenv("SIGMACAST_TOKEN"));
    if (!token) {
        complain(token.error().message);
        return kExitUsage;
    }
    const auto answer = get(command.url, "/api/v1/state", *token);
    if (!answer) {
        complain(answer.error().message);
        return kExitFailed;
    }
    if (const std::string problem = token_problem(answer->status, !token->empty());
        !problem.empty()) {
        complain(command.url + ": " + problem);
        return kExitFailed;
    }
    if (answer->status != 200) {
        complain(command.url + " answers HTTP " + std::to_string(answer->status) +
                 ". Is it an edge of Sigmacast?");
        return kExitFailed;
    }
    if (command.json) {
        return print(answer->body + (answer->body.ends_with('\n') ? "" : "\n")) ? kExitOk
                                                                                : kExitFailed;
    }
    const auto rows = state_rows(answer->body);
    if (!rows) {
        complain(command.url + ": " + rows.error().message);
        return kExitFailed;
    }
    if (rows->empty()) {
        remark("This edge knows no value yet.");
        return kExitOk;
    }
    std::vector<std::vector<Cell>> cells;
    for (const StateRow& row : *rows) {
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
    return kExitOk;
}

}  // namespace sigmacast::cli
