"""Tests of tools/check_layers.py: each rule catches its violation and lets the right thing pass."""
import importlib.util
import pathlib
import re
import subprocess
import sys
import tempfile
import unittest

ROOT = pathlib.Path(__file__).parents[2]


def check(**files):
    """Problems of a tree with these files: path with __ for / and _dot_ for the dot -> its include."""
    with tempfile.TemporaryDirectory() as folder:
        for name, include in files.items():
            path = pathlib.Path(folder, name.replace("__", "/").replace("_dot_", "."))
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"// a comment\n#include {include}\n", encoding="utf-8")
        script = ROOT / "tools" / "check_layers.py"
        result = subprocess.run([sys.executable, script, folder], capture_output=True, text=True)
        return result.stdout.splitlines() if result.returncode else []


class CheckLayers(unittest.TestCase):
    def test_lower_folder_may_not_include_upper(self):
        self.assertIn("locus/nn/norm.cpp:2:", check(locus__nn__norm_dot_cpp='"locus/moe/router.h"')[0])
        self.assertEqual(check(locus__moe__x_dot_cpp='"locus/nn/norm.h"'), [])

    def test_simulate_sees_config_headers_only(self):
        self.assertEqual(check(locus__simulate__a_dot_cpp='"locus/moe/config.h"'), [])
        self.assertNotEqual(check(locus__simulate__a_dot_cpp='"locus/moe/router.h"'), [])

    def test_the_command_line_sees_the_commands_alone(self):
        self.assertEqual(check(cli__main_dot_cpp='"locus/app/commands.h"'), [])
        self.assertNotEqual(check(cli__main_dot_cpp='"locus/app/session.h"'), [])

    def test_torch_free_places_see_no_torch(self):
        for place in ("locus__data__a_dot_cpp", "cli__main_dot_cpp", "locus__moe__config_dot_h",
                      "locus__train__metrics_dot_cpp", "locus__train__append_file_dot_cpp",
                      "locus__app__commands_dot_h"):
            self.assertNotEqual(check(**{place: "<ATen/core/Tensor.h>"}), [], place)
        self.assertEqual(check(locus__moe__router_dot_h="<ATen/core/Tensor.h>"), [])

    def test_heavy_torch_headers_are_banned_even_in_tests(self):
        self.assertNotEqual(check(tests__moe__a_test_dot_cpp="<torch/torch.h>"), [])

    def test_third_party_headers_have_one_place(self):
        self.assertNotEqual(check(locus__base__log_dot_h="<spdlog/spdlog.h>"), [])
        self.assertNotEqual(check(locus__io__json_dot_h="<nlohmann/json.hpp>"), [])
        self.assertNotEqual(check(locus__app__train_dot_cpp="<CLI/CLI.hpp>"), [])
        self.assertEqual(check(locus__base__log_dot_cpp="<spdlog/spdlog.h>"), [])

    def test_developers_page_holds_the_same_table(self):
        spec = importlib.util.spec_from_file_location("check_layers", ROOT / "tools" / "check_layers.py")
        script = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(script)
        page = (ROOT / "DEVELOPERS.md").read_text(encoding="utf-8")
        rows = re.findall(r"^\| `(\w+)` \|[^|]*\| ([^|]+) \| (?:yes|no) \|$", page, re.M)
        self.assertGreater(len(rows), 10)
        known, folders = set(), {folder for folder, _ in rows}
        for folder, text in rows:
            told = known if text == "all of the above" else set(text.strip("-").split(", ")) - {""}
            future = {name for name in script.ALLOWED if name not in folders}
            self.assertEqual(told, set(script.ALLOWED[folder].split()) - future, folder)
            known = known | {folder}

    def test_unknown_folder_is_a_problem(self):
        self.assertIn("does not know", check(locus__utils__a_dot_cpp="<vector>")[0])


if __name__ == "__main__":
    unittest.main()
