// See cmake/gloo/README.md.
#pragma once
