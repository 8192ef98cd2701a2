# SPDX-License-Identifier: MIT
"""Invoices: one for every order, and the books are told when it is paid."""
