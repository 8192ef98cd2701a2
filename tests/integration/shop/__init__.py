# SPDX-License-Identifier: MIT
"""A small shop built from modules, which react to each other's events.

Each module is a package. Others import its `contracts` alone; its `service` does the work, its
`routes` are its face to the web, and its `module` subscribes its handlers. `app` puts the modules
together, `dependencies` is what their routes ask for, `transactions` decides how events travel.
"""
