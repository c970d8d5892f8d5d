//! The `message` of events: one sentence for each outcome and language. The English sentences are the provider's (guide
//! "Suivi de statut"). No sentence contains an amount, number or code: the event has fields for those.

use topup_jobs::{Locale, Outcome};

/// The sentence for this outcome in this language.
#[must_use]
pub const fn message(outcome: Outcome, locale: Locale) -> &'static str {
    match (outcome, locale) {
        (Outcome::Fulfilled, Locale::En) => "Your internet top-up is ready: here is your card.",
        (Outcome::Fulfilled, Locale::Fr) => "Votre recharge internet est prête : voici votre carte.",
        (Outcome::Fulfilled, Locale::Ar) => "تعبئة الإنترنت الخاصة بك جاهزة: إليك بطاقتك.",
        (Outcome::Scheduled, Locale::En) => "Your order is scheduled and will be delivered within 48 hours.",
        (Outcome::Scheduled, Locale::Fr) => "Votre commande est planifiée et sera livrée dans les 48 heures.",
        (Outcome::Scheduled, Locale::Ar) => "تمت جدولة طلبك وسيتم تسليمه خلال 48 ساعة.",
        (Outcome::Refunded, Locale::En) => {
            "Your order could not be completed. A full refund has been issued."
        }
        (Outcome::Refunded, Locale::Fr) => {
            "Votre commande n'a pas pu aboutir. Elle vous a été intégralement remboursée."
        }
        (Outcome::Refunded, Locale::Ar) => "تعذر إتمام طلبك. تم رد المبلغ كاملا.",
        (Outcome::Delayed, Locale::En) => {
            "Your order takes longer than usual. We are following it and will tell you."
        }
        (Outcome::Delayed, Locale::Fr) => {
            "Votre commande prend plus de temps que d'habitude. Nous la suivons et vous tiendrons au courant."
        }
        (Outcome::Delayed, Locale::Ar) => "يستغرق طلبك وقتا أطول من المعتاد. نحن نتابعه وسنخبرك.",
        (Outcome::Unresolved, Locale::En) => "This order needs a look by the merchant.",
        (Outcome::Unresolved, Locale::Fr) => "Cette commande doit être vérifiée par le marchand.",
        (Outcome::Unresolved, Locale::Ar) => "يحتاج هذا الطلب إلى مراجعة من التاجر.",
        (Outcome::Overdue, Locale::En) => "This order has been waiting for much longer than usual.",
        (Outcome::Overdue, Locale::Fr) => "Cette commande attend depuis bien plus longtemps que d'habitude.",
        (Outcome::Overdue, Locale::Ar) => "طال انتظار هذا الطلب مدة أطول بكثير من المعتاد.",
        (Outcome::Undelivered, Locale::En) => "A notification about this order was not delivered.",
        (Outcome::Undelivered, Locale::Fr) => {
            "Une notification au sujet de cette commande n'a pas été remise."
        }
        (Outcome::Undelivered, Locale::Ar) => "تعذر تسليم إشعار يخص هذا الطلب.",
    }
}
